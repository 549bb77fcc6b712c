#include "tools/federation/operator_config.hpp"

namespace fedllm::tools::federation {

const config::Table<OperatorConfig>& operator_table() {
    using C = OperatorConfig;
    using config::field;
    static const config::Table<C> table{
        field<C>(
            "server.host", [](auto& c) -> auto& { return c.host; }, "where the server is"),
        field<C>("server.port", [](auto& c) -> auto& { return c.port; }, "its port", {.min = 1}),
        field<C>(
            "server.name", [](auto& c) -> auto& { return c.server_name; },
            "the name its certificate must carry; empty means the host"),
        field<C>(
            "tls.ca", [](auto& c) -> auto& { return c.ca; }, "the federation's authority"),
        field<C>(
            "tls.certificate", [](auto& c) -> auto& { return c.certificate; }, "the operator's certificate"),
        field<C>(
            "tls.key", [](auto& c) -> auto& { return c.key; }, "its private key (mode 0600)"),
    };
    return table;
}

Result<OperatorConfig> load_operator_config(const Path& folder) {
    auto loaded = config::load_yaml(folder / "operator.yaml", operator_table());
    if (!loaded) {
        if (loaded.error().code == Errc::NotFound) {
            return make_error(Errc::NotFound,
                              (folder / "operator.yaml").string() +
                                  " is not there; --dir names the folder that 'fedllm init' made");
        }
        return loaded.error();
    }
    for (Path* path : {&loaded->ca, &loaded->certificate, &loaded->key}) *path = folder / *path;
    return loaded;
}

}  // namespace fedllm::tools::federation
