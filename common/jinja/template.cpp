#include "common/jinja/template.hpp"

#include <algorithm>

#include "common/jinja/parser.hpp"
#include "common/jinja/renderer.hpp"

namespace fedllm::jinja {
namespace {

bool contains_generation(const Block& block) {
    return std::any_of(block.begin(), block.end(), [](const auto& statement) {
        return statement->kind == Statement::Kind::Generation ||
               std::any_of(statement->bodies.begin(), statement->bodies.end(), contains_generation);
    });
}

}  // namespace

Result<Template> Template::parse(std::string_view source) {
    Template result;
    FEDLLM_TRY(result.body_, jinja::parse(source));
    result.has_generation_ = contains_generation(result.body_);
    return result;
}

Result<Rendered> Template::render(const Variables& variables, const std::tm& now) const {
    return Renderer(variables, now).run(body_);
}

}  // namespace fedllm::jinja
