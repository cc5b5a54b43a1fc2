#include "train/model_state.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/check.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"
#include "checkpoint/model_tensors.h"
#include "optim/update_program.h"
#include "tensor/host_copy.h"

namespace megatron {
namespace {

/// Initial values `first` ... `first + count - 1` of a parameter (global row-major indices), each given to
/// `put(i, value)` with i from 0.
template <typename Put>
void draw(const Init& init, uint64_t key, int64_t first, int64_t count, const Put& put) {
  const auto index = [&](int64_t i) { return static_cast<uint64_t>(first + i); };
  switch (init.kind) {
    case Init::Kind::kConstant:
      for (int64_t i = 0; i < count; ++i) put(i, init.value);
      return;
    case Init::Kind::kNormal: {
      int64_t i = 0;
      if (i < count && first % 2 != 0) put(i++, init.value * philox_normal(key, index(0)));
      for (; i + 1 < count; i += 2) {  // a pair is one draw
        const NormalPair pair = philox_normal_pair(key, index(i) / 2);
        put(i, init.value * pair.even);
        put(i + 1, init.value * pair.odd);
      }
      if (i < count) put(i, init.value * philox_normal(key, index(i)));
      return;
    }
    case Init::Kind::kXavierUniform: {
      const double bound = std::sqrt(6.0 / static_cast<double>(init.fan_in + init.fan_out));
      for (int64_t i = 0; i < count; ++i) put(i, bound * (2.0 * philox_uniform(key, index(i)) - 1.0));
      return;
    }
  }
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

/// Memory of a parameter or of its master copy, and which elements of the rank's box it holds.
struct Part {
  Tensor tensor;
  Block range;
};

Part part_of(const Store& store, const Mesh& mesh, const std::string& name) {
  const Tensor tensor = store.find(name);
  if (!tensor) return {};
  const ValueInfo& type = store.type(name);
  return {tensor, flat_range(type.shape, type.placement, mesh)};
}

/// Copies what [first, first + count) of the box, of which `values` are the numbers, has in common with the part.
template <typename T>
void hand_over(Device& device, const Part& part, int64_t first, int64_t count, const T* values) {
  const int64_t begin = std::max(first, part.range.begin);
  const int64_t end = std::min(first + count, part.range.begin + part.range.size);
  if (begin >= end) return;
  device.copy_to_device(part.tensor.as<T>() + (begin - part.range.begin), values + (begin - first),
                        (end - begin) * size_of(part.tensor.dtype));
}

/// Draws a parameter, and its fp32 master copy where there is one, from the same numbers. The rank may hold a part of
/// the master copy only.
void fill(Device& device, const Part& part, const Part& master_part, const ParameterInfo& info, const ValueInfo& value,
          const LocalBox& box, uint64_t seed, ThreadPool& pool, const Drawn& host) {
  const Tensor &target = part.tensor, &master = master_part.tensor;
  const uint64_t key = philox_key(seed, hash_name(value.name));
  const int64_t row_size = value.shape.rank() > 0 && value.shape[0] > 0 ? value.shape.numel() / value.shape[0] : 1;
  const int64_t end_of_part = part.range.begin + part.range.size;
  const int64_t inner = box.extent.rank() > 0 ? box.extent[box.extent.rank() - 1] : 1;
  MEGATRON_CHECK(!master || (master.dtype == DType::kF32 && master.contiguous()), "a master copy is dense fp32");
  MEGATRON_CHECK(target.contiguous(), "parameters are dense");
  dispatch_floating("initialize_parameters", target.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* const drawn = reinterpret_cast<T*>(host.values.data());
    float* const wide = master ? reinterpret_cast<float*>(host.masters.data()) : nullptr;
    for (int64_t first = part.range.begin; first < end_of_part; first += kInitialChunk) {
      const int64_t count = std::min(kInitialChunk, end_of_part - first);
      pool.parallel_for(count, 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end;) {  // one stretch of consecutive global indices after the other
          const int64_t index = global_index(box, value.shape, first + i);
          const int64_t stretch = std::min({end - i, inner - (first + i) % inner, row_size - index % row_size});
          const auto put = [&](int64_t j, double number) {
            drawn[i + j] = static_cast<T>(number);
            if (wide != nullptr) wide[i + j] = static_cast<float>(number);
          };
          const bool padding = info.init.valid_rows >= 0 && index / row_size >= info.init.valid_rows;
          draw(padding ? Init::constant(0) : info.init, key, index, stretch, put);
          i += stretch;
        }
      });
      hand_over(device, part, first, count, drawn);
      if (wide != nullptr) hand_over(device, master_part, first, count, wide);
    }
  });
}

/// fp32 master from a 16-bit parameter that has all of its elements.
void copy_to_master(Device& device, const Part& from, const Part& master) {
  const HostTensor host = to_host(device, from.tensor);
  dispatch_floating("copy_to_master", from.tensor.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* source = host.tensor.as<T>() + (master.range.begin - from.range.begin);
    std::vector<float> values(static_cast<size_t>(master.range.size));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(source[i]);
    write_tensor(device, master.tensor, values.data(), master.tensor.bytes());
  });
}

/// A box of a global tensor that this rank holds. `writes`: of the ranks that hold the same box it is the one to write
/// it.
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
    if (!placement[a].cuts() && axis.coordinate != static_cast<int>(number) % axis.size) return false;
  }
  return true;
}

/// The boxes of a stored tensor that elements `range` of `box`, row-major, make up.
std::vector<Box> pieces_of(const Box& box, const Block& range) {
  LocalBox local;
  for (size_t d = 0; d < box.extent.size(); ++d) {
    local.origin.push_back(box.offset[d]);
    local.extent.push_back(box.extent[d]);
  }
  std::vector<Box> pieces;
  for (const LocalBox& piece : boxes_of(local, range)) {
    pieces.push_back({{piece.origin.begin(), piece.origin.end()}, {piece.extent.begin(), piece.extent.end()}});
  }
  return pieces;
}

std::vector<StateTensor> state_tensors(const Program& program, const Store& store, bool optimizer) {
  std::vector<StateTensor> all;
  size_t number = 0;
  const auto add = [&](const std::string& name, StateKind kind, const ParameterInfo& p) {
    const Part part = part_of(store, program.mesh, name);
    if (store.tensors().count(name) == 0) return;  // a part without elements counts: all ranks number alike
    const ValueInfo& info = store.type(name);
    const Box box = stored_box(name, info.shape, p.init, local_box(info.shape, info.placement, program.mesh));
    const TensorRecord record = stored_record(name, kind, part.tensor.dtype, info.shape, p.init);
    const bool writes = p.owner && writes_copy(info.placement, program.mesh, number++);
    // What is left out is the end of the box: padding.
    const int64_t end = std::min(part.range.begin + part.range.size, element_count(box.extent));
    int64_t at = part.range.begin;
    for (const Box& piece : pieces_of(box, {at, std::max<int64_t>(0, end - at)})) {
      Tensor row = make_tensor(part.tensor.data, part.tensor.dtype, Dims{element_count(piece.extent)});
      row.data = static_cast<std::byte*>(row.data) + (at - part.range.begin) * size_of(row.dtype);
      all.push_back({record, piece, row, writes});
      at += row.numel();
    }
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

/// Where to read a parameter that may be stored narrower than it is wanted: the master copy is what was trained.
TensorRecord stored_weight(const CheckpointReader& reader, const TensorRecord& wanted) {
  const StoredTensor* stored = reader.find(wanted.name);
  const std::string master = optimizer_state::master(wanted.name);
  TensorRecord from = wanted;
  if (stored != nullptr && size_of(stored->record.dtype) < size_of(wanted.dtype) && reader.find(master)) {
    from.name = master;
  }
  return from;
}

}  // namespace

void initialize_parameters(const Program& program, Store& store, uint64_t seed, ThreadPool& pool) {
  const Drawn host(store.device());
  for (const ParameterInfo& p : program.parameters) {
    const ValueInfo& value = program.value(p.value);
    const LocalBox box = local_box(value.shape, value.placement, program.mesh);
    fill(store.device(), part_of(store, program.mesh, value.name),
         part_of(store, program.mesh, optimizer_state::master(value.name)), p, value, box, seed, pool, host);
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
                       },
                       s.tensor.data});
  }
  return sources;
}

void check_tensors(const CheckpointReader& reader, const Program& program, const Store& store, bool optimizer) {
  for (const StateTensor& s : state_tensors(program, store, optimizer)) {
    reader.require(optimizer ? s.record : stored_weight(reader, s.record), /*any_floating=*/!optimizer);
  }
}

namespace {

using ReadBox = std::function<void(const TensorRecord&, const Box&, std::span<std::byte>)>;

int64_t read_tensors(const Program& program, Store& store, bool optimizer, const ReadBox& read) {
  int64_t total = 0;
  for (const StateTensor& s : state_tensors(program, store, optimizer)) {
    std::vector<std::byte> bytes(static_cast<size_t>(s.tensor.bytes()));
    read(s.record, s.box, bytes);
    write_tensor(store.device(), s.tensor, bytes.data(), s.tensor.bytes());
    total += s.tensor.bytes();
  }
  if (optimizer) return total;
  for (const ParameterInfo& p : program.parameters) {
    const std::string& name = program.value(p.value).name;
    const Part master = part_of(store, program.mesh, optimizer_state::master(name));
    if (master.tensor) copy_to_master(store.device(), part_of(store, program.mesh, name), master);
  }
  return total;
}

}  // namespace

int64_t load_tensors(const CheckpointReader& reader, const Program& program, Store& store, bool optimizer) {
  return read_tensors(program, store, optimizer, [&](const TensorRecord& record, const Box& box, auto out) {
    if (optimizer) return reader.read_box(record, box, out);
    reader.read_box_as(stored_weight(reader, record), box, out);
  });
}

int64_t load_weights(const ModelSource& source, const Program& program, Store& store) {
  return read_tensors(program, store, /*optimizer=*/false,
                      [&](const TensorRecord& record, const Box& box, auto out) { source.read_box(record, box, out); });
}

}  // namespace megatron
