// The filters that go through the items of a value.
#pragma once

#include "common/jinja/builtins.hpp"

namespace fedllm::jinja {

Result<Value> filter_dictsort(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_first(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_items(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_join(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_last(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_list(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_map(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_max(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_min(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_reject(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_rejectattr(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_reverse(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_select(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_selectattr(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_sort(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_sum(Context context, const Value& value, const Arguments& arguments);
Result<Value> filter_unique(Context context, const Value& value, const Arguments& arguments);

}  // namespace fedllm::jinja
