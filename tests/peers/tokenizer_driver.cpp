// peer_tokenizer TOKENIZER_JSON: for each line a JSON string answers its ids (with the special tokens of the
// file's template), for a JSON array of ids their text.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "client/data/tokenizer.hpp"

using namespace fedllm;

int main(int count, char** arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: peer_tokenizer TOKENIZER_JSON < lines\n");
        return 2;
    }
    const auto tokenizer = client::data::Tokenizer::load(arguments[1]);
    if (!tokenizer) {
        std::fprintf(stderr, "%s\n", to_string(tokenizer.error()).c_str());
        return 1;
    }
    std::ios::sync_with_stdio(false);
    for (std::string line; std::getline(std::cin, line);) {
        const auto request = nlohmann::json::parse(line);
        const nlohmann::json answer =
            request.is_string()
                ? nlohmann::json(tokenizer->encode(request.get<std::string>(), client::data::AddSpecial::Yes))
                : nlohmann::json(tokenizer->decode(request.get<std::vector<std::int32_t>>()));
        std::cout << answer.dump() << '\n';
    }
    return 0;
}
