#include "kernels/layernorm/layernorm.h"
#include "kernels/rmsnorm/norm_cuda.cuh"

namespace megatron {

using namespace norm_cuda;  // NOLINT: helpers of the norms

void layernorm_cuda(const LayerNormArgs& args, void* stream) {
  dispatch_pair("layernorm", args.x.dtype, args.gamma.dtype, [&](auto x_tag, auto y_tag) {
    using TX = typename decltype(x_tag)::type;
    using TY = typename decltype(y_tag)::type;
    using A = cuda::Accumulator<TX>;
    Forward<TX, TY> f{};
    f.x = data_of<TX>(args.x), f.residual = data_of<TX>(args.residual);
    f.gamma = data_of<TY>(args.gamma), f.beta = data_of<TY>(args.beta);
    f.y = data_of<TY>(args.y), f.sum = data_of<TX>(args.sum);
    f.rstd = data_of<A>(args.rstd), f.mean = data_of<A>(args.mean);
    f.x_rows = row_offsets(args.x), f.residual_rows = row_offsets(args.residual);
    f.y_rows = row_offsets(args.y), f.sum_rows = row_offsets(args.sum);
    f.rows = count_rows(args.x), f.n = args.x.shape.back();
    f.aligned = true;
    for (const Tensor* t : {&args.x, &args.residual, &args.gamma, &args.beta, &args.y, &args.sum})
      f.aligned = f.aligned && allows_packs(*t, kPackOf<TX, TY>);
    f.offset = args.options.zero_centered ? A(1) : A(0);
    f.epsilon = static_cast<A>(args.options.epsilon);
    launch_forward<true>(f, stream_of(stream));
  });
}

void layernorm_backward_cuda(const LayerNormBackwardArgs& args, void* workspace, void* stream) {
  dispatch_pair("layernorm_backward", args.x.dtype, args.gamma.dtype, [&](auto x_tag, auto y_tag) {
    using TX = typename decltype(x_tag)::type;
    using TY = typename decltype(y_tag)::type;
    using A = cuda::Accumulator<TX>;
    Backward<TX, TY> b{};
    b.dy = data_of<TY>(args.dy), b.x = data_of<TX>(args.x), b.gamma = data_of<TY>(args.gamma);
    b.rstd = data_of<A>(args.rstd), b.mean = data_of<A>(args.mean);
    b.dsum = data_of<TX>(args.dsum), b.dx = data_of<TX>(args.dx);
    b.partial = args.dgamma || args.dbeta ? static_cast<A*>(workspace) : nullptr;
    b.dy_rows = row_offsets(args.dy), b.x_rows = row_offsets(args.x);
    b.dsum_rows = row_offsets(args.dsum), b.dx_rows = row_offsets(args.dx);
    b.rows = count_rows(args.x), b.n = args.x.shape.back();
    b.aligned = true;
    for (const Tensor* t : {&args.dy, &args.x, &args.gamma, &args.dsum, &args.dx})
      b.aligned = b.aligned && allows_packs(*t, kPackOf<TX, TY>);
    b.add = args.add_dx;
    b.offset = args.options.zero_centered ? A(1) : A(0);
    launch_backward<true>(b, stream_of(stream));
    const int64_t blocks = backward_blocks(b.rows, backward_cut(div_ceil(b.n, kPackOf<TX, TY>)));
    const A* partial = static_cast<const A*>(workspace);
    if (args.dgamma) combine(partial, blocks, 2 * b.n, args.dgamma, args.add_dgamma, stream_of(stream));
    if (args.dbeta) combine(partial + b.n, blocks, 2 * b.n, args.dbeta, args.add_dbeta, stream_of(stream));
  });
}

}  // namespace megatron
