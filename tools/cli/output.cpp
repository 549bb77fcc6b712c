#include "tools/cli/output.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace fedllm::tools::cli {
namespace {

bool is_number(const std::string& cell) {
    return !cell.empty() && (std::isdigit(static_cast<unsigned char>(cell.front())) || cell.front() == '-');
}

std::string line(const std::vector<std::string>& cells, const std::vector<std::size_t>& widths) {
    std::string text;
    for (std::size_t i = 0; i < cells.size(); ++i) {
        const std::string padding(widths[i] - std::min(widths[i], cells[i].size()), ' ');
        text += i == 0 ? "" : "  ";
        text += is_number(cells[i]) ? padding + cells[i] : cells[i] + padding;
    }
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text + "\n";
}

}  // namespace

std::string table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows) {
    std::vector<std::size_t> widths;
    for (const auto& cell : header) widths.push_back(cell.size());
    for (const auto& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string text = line(header, widths);
    for (const auto& row : rows) text += line(row, widths);
    return text;
}

std::string fixed(double value, int digits) {
    if (std::isnan(value)) return "-";
    char text[64];
    std::snprintf(text, sizeof text, "%.*f", digits, value);
    return text;
}

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace fedllm::tools::cli
