// What a build without CUDA links.
#include "client/cuda_update/cuda_builder.hpp"

namespace fedllm::client::cuda_update {

Result<update::EncodedUpdate> build(unsigned, const tensor::ParamSet&, const tensor::ParamSet&,
                                    const update::BuildRequest&) {
    return make_error(Errc::Unsupported, "this program was built without CUDA");
}

}  // namespace fedllm::client::cuda_update
