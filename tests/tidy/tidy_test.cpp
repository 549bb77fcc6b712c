// House rules that a machine can check. Runs from the repository root; each failure names file and line.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kAreas{"common", "kernels", "client", "server", "tools"};

std::string slurp(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

std::vector<std::string> lines_of(const fs::path& path) {
    std::istringstream in(slurp(path));
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

bool is_code(const fs::path& path) {
    const auto extension = path.extension();
    return extension == ".cpp" || extension == ".hpp" || extension == ".cu" || extension == ".cuh";
}

std::vector<fs::path> code_files(const std::vector<std::string>& roots) {
    std::vector<fs::path> files;
    for (const auto& root : roots) {
        if (!fs::exists(root)) continue;
        for (const auto& entry : fs::recursive_directory_iterator(root)) {
            if (entry.is_regular_file() && is_code(entry.path())) files.push_back(entry.path());
        }
    }
    return files;
}

std::string folder_of(const std::string& file) { return file.substr(0, file.rfind('/')); }

// README.md draws the graph in a ```graph block, one folder a line: "server/round <- common/base common/job".
std::map<std::string, std::set<std::string>> drawn_graph() {
    std::map<std::string, std::set<std::string>> graph;
    bool inside = false;
    for (const std::string& line : lines_of("README.md")) {
        if (line.starts_with("```")) {
            inside = line == "```graph";
            continue;
        }
        if (!inside) continue;
        std::istringstream words(line);
        std::string folder, arrow, target;
        words >> folder >> arrow;
        auto& targets = graph[folder];
        while (words >> target) targets.insert(target);
    }
    return graph;
}

// "common" in the drawing stands for every folder below it.
bool drawn(const std::set<std::string>& targets, const std::string& folder) {
    for (const std::string& target : targets) {
        if (folder == target || folder.starts_with(target + "/")) return true;
    }
    return false;
}

TEST(Tidy, IncludesFollowTheDrawnArrows) {
    const auto graph = drawn_graph();
    ASSERT_FALSE(graph.empty()) << "README.md has no ```graph block";
    const std::regex include(R"(^\s*#include \"([^\"]+)\")");
    for (const fs::path& file : code_files(kAreas)) {
        const std::string from = folder_of(file.generic_string());
        std::size_t number = 0;
        for (const std::string& line : lines_of(file)) {
            ++number;
            std::smatch match;
            if (!std::regex_search(line, match, include)) continue;
            const std::string to = folder_of(match[1].str());
            const bool ours = std::ranges::find(kAreas, to.substr(0, to.find('/'))) != kAreas.end();
            if (to == from || !ours) continue;
            const auto row = graph.find(from);
            ASSERT_NE(row, graph.end()) << file << ": README.md's graph does not draw the folder " << from;
            EXPECT_TRUE(drawn(row->second, to)) << file.generic_string() << ":" << number << ": " << from
                                                << " -> " << to << " is not an arrow that README.md draws";
        }
    }
}

TEST(Tidy, DrawnArrowsPointOneWay) {
    const auto graph = drawn_graph();
    std::set<std::string> seen;
    // The drawing is in order: a folder may only point at folders above it.
    for (const std::string& line : lines_of("README.md")) {
        std::istringstream words(line);
        std::string folder, arrow, target;
        words >> folder >> arrow;
        if (arrow != "<-" || !graph.contains(folder)) continue;
        while (words >> target) {
            bool above = false;
            for (const std::string& earlier : seen)
                above |= earlier == target || earlier.starts_with(target + "/");
            EXPECT_TRUE(above) << folder << " <- " << target << ": README.md must draw " << target
                               << " first";
        }
        seen.insert(folder);
    }
}

TEST(Tidy, EveryFolderWithCodeHasAReadmeOfAtMostSixtyLines) {
    std::set<std::string> folders;
    for (const fs::path& file : code_files(kAreas)) folders.insert(folder_of(file.generic_string()));
    for (const std::string& folder : folders) {
        const fs::path readme = fs::path(folder) / "README.md";
        ASSERT_TRUE(fs::exists(readme)) << folder << " has code but no README.md";
        EXPECT_LE(lines_of(readme).size(), 60u) << readme;
    }
}

TEST(Tidy, LinesAreAtMostATerminalWide) {
    for (const fs::path& file : code_files({"common", "kernels", "client", "server", "tools", "tests"})) {
        std::size_t number = 0;
        for (const std::string& line : lines_of(file)) {
            ++number;
            EXPECT_LE(line.size(), 120u) << file.generic_string() << ":" << number;
        }
    }
}

struct Ban {
    const char* pattern;
    const char* reason;
    std::vector<std::string> allowed;  // path prefixes
};

TEST(Tidy, BannedWordsStayOut) {
    const std::vector<Ban> bans{
        {R"(system_clock::now|steady_clock::now)",
         "time enters through Clock& or monotonic_seconds()",
         {"common/base/", "common/net/", "common/log/"}},
        {R"(std::random_device|\brand\()", "use Rng, or crypto::SecureRng for secrets", {}},
        {R"(\.detach\(\)|asio::detached)", "tasks live in a net::TaskGroup", {}},
        {R"(FIXME|TODO)", "finish it, or file an issue", {}},
        {R"(\bmutex\b)",
         "business logic is single-threaded; hand work to a pool and post results back",
         {"common/log/", "kernels/device/"}},
        {R"(\bcatch \()",
         "failures are Result values; only these edges meet exceptions",
         {"common/config/yaml.cpp", "common/formats/peft_patterns.cpp", "common/net/",
          "client/cuda_engine/guarded.hpp", "client/data/json_fields.cpp", "client/main.cpp",
          "server/main.cpp", "tools/main.cpp"}},
        {R"(shared_ptr)",
         "one owner per resource (say here who shares and why)",
         {"common/net/", "common/log/", "server/engine/", "common/jinja/", "client/cuda_engine/",
          "tools/world/disk/"}},
    };
    for (const Ban& ban : bans) {
        const std::regex pattern(ban.pattern);
        for (const fs::path& file : code_files(kAreas)) {
            const std::string path = file.generic_string();
            bool allowed = false;
            for (const std::string& prefix : ban.allowed) allowed |= path.starts_with(prefix);
            if (allowed) continue;
            std::size_t number = 0;
            for (const std::string& line : lines_of(file)) {
                ++number;
                const std::string code = line.substr(0, line.find("//"));
                EXPECT_FALSE(std::regex_search(code, pattern))
                    << path << ":" << number << ": " << ban.reason << "\n    " << line;
            }
        }
    }
}

TEST(Tidy, PureFoldersTouchNoSocketsThreadsOrDisks) {
    const std::regex impure(R"(#include <(boost/asio|thread|fstream|sqlite3|openssl))");
    for (const char* file : {"server/round/machine.hpp", "server/round/machine.cpp",
                             "client/agent/machine.hpp", "client/agent/machine.cpp"}) {
        ASSERT_TRUE(fs::exists(file))
            << file << " is the pure half of its daemon; update this list if it moved";
        EXPECT_FALSE(std::regex_search(slurp(file), impure)) << file << " is pure: no I/O";
    }
    for (const fs::path& file : code_files({"common/protocol"})) {
        EXPECT_FALSE(std::regex_search(slurp(file), std::regex(R"(#include <boost/asio)"))) << file;
    }
}

}  // namespace
