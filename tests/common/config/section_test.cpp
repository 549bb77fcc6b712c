// A section whose keys the user chooses.
#include <gtest/gtest.h>

#include "common/config/yaml.hpp"

namespace fedllm::config {
namespace {

struct Shelf {
    std::map<std::string, Path> books;
    std::vector<std::string> words;
    std::uint32_t count = 0;
    bool operator==(const Shelf&) const = default;
};

Table<Shelf> shelf_table() {
    using C = Shelf;
    return {field<C>(
                "room.books", [](auto& c) -> auto& { return c.books; }, "names and places"),
            field<C>(
                "words", [](auto& c) -> auto& { return c.words; }, ""),
            field<C>(
                "count", [](auto& c) -> auto& { return c.count; }, "")};
}

std::string error_of(const std::string& yaml) {
    const auto shelf = parse_yaml(yaml, "x.yaml", shelf_table());
    return shelf ? "no error" : shelf.error().message;
}

TEST(Section, IsReadAndPrintedBack) {
    Shelf shelf;
    shelf.books = {{"demo", "/models/demo"}, {"a key: odd", "b\"c"}, {"true", "1"}};
    shelf.words = {"x"};
    const std::string text = print_yaml(shelf, shelf_table(), Comments::Yes);
    EXPECT_NE(text.find("  books:\n    \"a key: odd\": \"b\\\"c\"\n    demo: /models/demo\n"),
              std::string::npos)
        << text;
    const auto again = parse_yaml(text, "x.yaml", shelf_table());
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(*again, shelf);
}

TEST(Section, MayBeEmpty) {
    const std::string text = print_yaml(Shelf{}, shelf_table());
    const auto again = parse_yaml(text, "x.yaml", shelf_table());
    ASSERT_TRUE(again) << text << again.error().message;
    EXPECT_EQ(*again, Shelf{});
}

TEST(Section, RefusesOtherShapesWithFileLineAndKey) {
    EXPECT_NE(error_of("room:\n  books: demo\n").find("x.yaml:2: room.books: expected indented lines"),
              std::string::npos);
    EXPECT_NE(error_of("room:\n  books:\n    a: [1, 2]\n").find("x.yaml:3: room.books:"), std::string::npos);
    EXPECT_NE(error_of("room:\n  books:\n    a: b\n    a: c\n").find("a: this key is given twice"),
              std::string::npos);
    EXPECT_NE(error_of("words:\n  a: b\n").find("expected a list, not a section"), std::string::npos);
    EXPECT_NE(error_of("count:\n  a: 3\n").find("expected one value, not a section"), std::string::npos);
}

}  // namespace
}  // namespace fedllm::config
