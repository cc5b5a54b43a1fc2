#include "train/model_state.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"
#include "checkpoint/model_tensors.h"
#include "optim/update_program.h"
#include "tensor/host_copy.h"

namespace megatron {
namespace {

double initial_value(const Init& init, uint64_t key, int64_t index, int64_t row) {
  if (init.valid_rows >= 0 && row >= init.valid_rows) return 0.0;
  switch (init.kind) {
    case Init::Kind::kConstant:
      return init.value;
    case Init::Kind::kNormal:
      return init.value * philox_normal(key, static_cast<uint64_t>(index));
    case Init::Kind::kXavierUniform: {
      const double bound = std::sqrt(6.0 / static_cast<double>(init.fan_in + init.fan_out));
      return bound * (2.0 * philox_uniform(key, static_cast<uint64_t>(index)) - 1.0);
    }
  }
  return 0.0;
}

/// Global row-major index of local element `local` of a box.
int64_t global_index(const LocalBox& box, const Dims& shape, int64_t local) {
  int64_t index = 0, stride = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    index += (box.origin[d] + local % box.extent[d]) * stride;
    local /= box.extent[d];
    stride *= shape[d];
  }
  return index;
}

constexpr int64_t kInitialChunk = 1 << 22;  ///< elements that the host draws before it hands them over

/// Host memory that numbers are drawn into, used again for every parameter.
struct Drawn {
  explicit Drawn(Device& device)
      : values(device, kInitialChunk * size_of(DType::kF64), Buffer::Place::kHost),
        masters(device, kInitialChunk * size_of(DType::kF32), Buffer::Place::kHost) {}
  Buffer values, masters;
};

/// Draws a parameter, and its fp32 master copy where there is one, from the same numbers.
void fill(Device& device, const Tensor& target, const Tensor& master, const ParameterInfo& info, const ValueInfo& value,
          const LocalBox& box, uint64_t seed, ThreadPool& pool, const Drawn& host) {
  const uint64_t key = philox_key(seed, hash_name(value.name));
  const int64_t row_size = value.shape.rank() > 0 && value.shape[0] > 0 ? value.shape.numel() / value.shape[0] : 1;
  const int64_t total = target.numel();
  MEGATRON_CHECK(!master || (master.dtype == DType::kF32 && master.contiguous()), "a master copy is dense fp32");
  MEGATRON_CHECK(target.contiguous(), "parameters are dense");
  dispatch_floating("initialize_parameters", target.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* const drawn = reinterpret_cast<T*>(host.values.data());
    float* const wide = master ? reinterpret_cast<float*>(host.masters.data()) : nullptr;
    for (int64_t first = 0; first < total; first += kInitialChunk) {
      const int64_t count = std::min(kInitialChunk, total - first);
      pool.parallel_for(count, 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t index = global_index(box, value.shape, first + i);
          const double number = initial_value(info.init, key, index, index / row_size);
          drawn[i] = static_cast<T>(number);
          if (wide != nullptr) wide[i] = static_cast<float>(number);
        }
      });
      device.copy_to_device(target.as<T>() + first, drawn, count * size_of(target.dtype));
      if (wide != nullptr) device.copy_to_device(master.as<float>() + first, wide, count * size_of(DType::kF32));
    }
  });
}

/// fp32 master from a 16-bit parameter.
void copy_to_master(Device& device, const Tensor& from, const Tensor& master) {
  const HostTensor host = to_host(device, from);
  dispatch_floating("copy_to_master", from.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* source = host.tensor.as<T>();
    std::vector<float> values(static_cast<size_t>(from.numel()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(source[i]);
    write_tensor(device, master, values.data(), master.bytes());
  });
}

/// This rank's box of a global tensor. `writes`: of the ranks that hold the same box it is the one to write it.
struct StateTensor {
  TensorRecord record;
  Box box;
  Tensor tensor;
  bool writes = true;
};

/// Copies lie along the axes that do not cut the tensor; the tensors of a checkpoint take turns among them.
bool writes_copy(const Placement& placement, const Mesh& mesh, size_t number) {
  for (size_t a = 0; a < placement.size(); ++a) {
    const MeshAxis& axis = mesh.axes[a];
    if (!placement[a].sharded() && axis.coordinate != static_cast<int>(number) % axis.size) return false;
  }
  return true;
}

std::vector<StateTensor> state_tensors(const Program& program, const Store& store, bool optimizer) {
  std::vector<StateTensor> all;
  size_t number = 0;
  const auto add = [&](const std::string& name, StateKind kind, const ParameterInfo& p) {
    Tensor rows = store.find(name);
    if (!rows) return;
    const ValueInfo& info = program.value(p.value);
    const Box box = stored_box(name, info.shape, p.init, local_box(info.shape, info.placement, program.mesh));
    if (rows.shape.rank() > 0) rows.shape[0] = box.extent[0];
    const bool writes = writes_copy(info.placement, program.mesh, number++);
    if (rows.numel() == 0) return;  // nothing but padding
    all.push_back({stored_record(name, kind, rows.dtype, info.shape, p.init), box, rows, writes});
  };
  for (const ParameterInfo& p : program.parameters) add(program.value(p.value).name, StateKind::kParameter, p);
  if (!optimizer) return all;
  for (const ParameterInfo& p : program.parameters) {
    const std::string& name = program.value(p.value).name;
    for (const std::string& state : {optimizer_state::master(name), optimizer_state::exp_avg(name),
                                     optimizer_state::exp_avg_sq(name), optimizer_state::momentum(name)}) {
      add(state, StateKind::kOptimizer, p);
    }
  }
  return all;
}

}  // namespace

void initialize_parameters(const Program& program, Store& store, uint64_t seed, ThreadPool& pool) {
  const Drawn host(store.device());
  for (const ParameterInfo& p : program.parameters) {
    const ValueInfo& value = program.value(p.value);
    const LocalBox box = local_box(value.shape, value.placement, program.mesh);
    fill(store.device(), store.find(value.name), store.find(optimizer_state::master(value.name)), p, value, box, seed,
         pool, host);
  }
}

std::vector<TensorSource> checkpoint_tensors(const Program& program, const Store& store, bool optimizer) {
  std::vector<TensorSource> sources;
  for (const StateTensor& s : state_tensors(program, store, optimizer)) {
    if (!s.writes) continue;
    if (store.device().kind() == DeviceKind::kCpu) {
      const auto* bytes = static_cast<const std::byte*>(s.tensor.data);
      sources.push_back({s.record, s.box, {bytes, static_cast<size_t>(s.tensor.bytes())}, nullptr});
      continue;
    }
    sources.push_back({s.record,
                       s.box,
                       {},
                       [&device = store.device(), data = s.tensor.data](int64_t offset, std::span<std::byte> out) {
                         device.copy_to_host(out.data(), static_cast<const std::byte*>(data) + offset,
                                             static_cast<int64_t>(out.size()));
                       }});
  }
  return sources;
}

void load_tensors(const ModelSource& source, const Program& program, Store& store, bool optimizer) {
  for (const StateTensor& s : state_tensors(program, store, optimizer)) {
    std::vector<std::byte> bytes(static_cast<size_t>(s.tensor.bytes()));
    source.read_box(s.record, s.box, bytes);
    write_tensor(store.device(), s.tensor, bytes.data(), s.tensor.bytes());
  }
  if (optimizer) return;
  for (const ParameterInfo& p : program.parameters) {
    const std::string& name = program.value(p.value).name;
    const Tensor master = store.find(optimizer_state::master(name));
    if (master) copy_to_master(store.device(), store.find(name), master);
  }
}

}  // namespace megatron
