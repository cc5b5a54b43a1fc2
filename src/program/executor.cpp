#include "program/executor.h"

#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/strings.h"
#include "device/profile_range.h"
#include "program/passes.h"
#include "program/strided.h"
#include "tensor/host_copy.h"

namespace megatron {

int64_t persistent_bytes(const Program& program, ValueId id) {
  return round_up(program.local_bytes(id), Device::kAlignment);
}

Tensor Store::require(const Program& program, ValueId id) {
  const ValueInfo& info = program.value(id);
  const Dims shape = program.local_shape(id);
  const auto found = tensors_.find(info.name);
  if (found != tensors_.end()) {
    MEGATRON_CHECK(found->second.dtype == info.dtype && found->second.shape == shape,
                   "two programs declare '" + info.name + "' with different types");
    return found->second;
  }
  buffers_.emplace_back(device_, persistent_bytes(program, id));
  device_.fill_zero(buffers_.back().data(), buffers_.back().bytes());
  const Tensor tensor = make_tensor(buffers_.back().data(), info.dtype, shape);
  tensors_[info.name] = tensor;
  types_[info.name] = info;
  return tensor;
}

Tensor Store::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? Tensor{} : found->second;
}

Executor::Executor(Plan plan, Store& store, std::shared_ptr<Buffer> arena, Options options)
    : plan_(std::move(plan)), store_(store), options_(std::move(options)), arena_(std::move(arena)) {
  if (options_.kept_offset < 0) options_.kept_offset = plan_.transient_bytes;
  MEGATRON_CHECK(
      options_.kept_offset >= plan_.transient_bytes && arena_->bytes() >= options_.kept_offset + plan_.kept_bytes(),
      "the arena is too small for program '" + plan_.program.name + "'");
  phases_.resize(static_cast<size_t>(plan_.options.slot_sets));
  for (const auto& [name, id] : plan_.program.by_name) {
    const Lifetime lifetime = plan_.program.value(id).lifetime;
    const bool host = lifetime == Lifetime::kInput || lifetime == Lifetime::kReceived;
    if (!host && !plan_.program.is_alias(id)) store_.require(plan_.program, id);
  }
  fork_ = new_event();
  for (Event*& event : join_) event = new_event();
  for (int s = 0; s < plan_.options.slot_sets; ++s) {
    for (int phase = 0; phase < kPhases; ++phase) bind_phase(static_cast<Phase>(phase), s);
  }
}

Event* Executor::new_event() {
  events_.push_back(store_.device().make_event());
  return events_.back().get();
}

std::byte* Executor::region_base(Region region, int slot_set) const {
  // arena: transient | ... | inputs of set 0, 1, ... | slots of set 0, 1, ...
  std::byte* base = arena_->data();
  if (region == Region::kTransient) return base;
  base += options_.kept_offset;
  if (region == Region::kInput) return base + slot_set * plan_.input_bytes;
  return base + plan_.options.slot_sets * plan_.input_bytes + slot_set * plan_.slot_bytes;
}

Tensor Executor::bind(ValueId v, int slot_set) {
  if (v == kNone || plan_.unread[static_cast<size_t>(v)]) return {};
  const ValueInfo& info = plan_.program.value(v);
  const ValueId root = info.storage.root;
  const Slot& slot = plan_.slots[static_cast<size_t>(root)];
  std::byte* base = slot.region == Region::kPersistent
                        ? static_cast<std::byte*>(store_.require(plan_.program, root).data)
                        : region_base(slot.region, slot_set) + slot.offset;
  return Tensor{base + info.storage.offset * size_of(info.dtype), info.dtype, plan_.program.local_shape(v),
                info.storage.strides};
}

void Executor::bind_phase(Phase phase, int slot_set) {
  PhaseStates& states = phases_[static_cast<size_t>(slot_set)][static_cast<size_t>(phase)];
  const auto add = [&](PhaseState& state, OpId id) {
    state.ops.push_back(bind_op(id, slot_set));
    state.forks = state.forks || plan_.program.op(id).stream != Stream::kCompute;
  };
  for (OpId id : plan_.program.list(phase)) {
    if (!runs(plan_, id)) continue;
    add(states.whole, id);
    states.has_edges = states.has_edges || plan_.program.op(id).edge;
  }
  bind_events(states.whole.ops, plan_.waits);
  if (!states.has_edges) return;
  for (const BoundOp& bound : states.whole.ops) {
    if (!plan_.program.op(bound.id).edge) add(states.inner, bound.id);
  }
  bind_events(states.inner.ops, plan_.inner_waits);
}

Executor::BoundOp Executor::bind_op(OpId id, int slot_set) {
  const Op& op = plan_.program.op(id);
  BoundOp bound;
  bound.id = id;
  OpShapes shapes = shapes_of(plan_.program, op);
  bound.operand_origins = std::move(shapes.operand_origins);
  bound.result_origins = std::move(shapes.result_origins);
  for (ValueId v : op.operands) bound.operands.push_back(bind(v, slot_set));
  for (size_t i = 0; i < op.results.size(); ++i) {
    bound.results.push_back(bind(op.results[i], slot_set));
    bound.accumulate.push_back(op.accumulate[i] != kNone);
    if (op.accumulate[i] == kNone || !bound.results.back()) continue;
    const Tensor sum = bind(op.accumulate[i], slot_set);
    if (sum.data != bound.results.back().data) bound.copies.emplace_back(sum, bound.results.back());
  }
  const Slot& workspace = plan_.workspaces[static_cast<size_t>(id)];
  if (workspace.bytes > 0) bound.workspace = region_base(Region::kTransient, slot_set) + workspace.offset;
  if (!op.kind->comm_axis().empty()) {
    const auto comm = options_.comms.find(op.kind->comm_axis());
    MEGATRON_CHECK(comm != options_.comms.end(), "no communicator for mesh axis " + op.kind->comm_axis());
    bound.comm = comm->second;
  }
  return bound;
}

void Executor::bind_events(std::vector<BoundOp>& ops, const std::vector<std::vector<OpId>>& waits) {
  std::map<OpId, BoundOp*> by_id;
  for (BoundOp& bound : ops) by_id[bound.id] = &bound;
  for (BoundOp& bound : ops) {
    for (OpId id : waits[static_cast<size_t>(bound.id)]) {
      const auto found = by_id.find(id);
      if (found == by_id.end()) continue;  // idle: never run
      if (found->second->done == nullptr) found->second->done = new_event();
      bound.waits.push_back(found->second->done);
    }
  }
}

bool Executor::has_input(const std::string& name) const {
  const auto found = plan_.program.by_name.find(name);
  return found != plan_.program.by_name.end() && plan_.program.value(found->second).lifetime == Lifetime::kInput;
}

Tensor Executor::input(const std::string& name, int slot_set) const {
  MEGATRON_CHECK(has_input(name), "program '" + plan_.program.name + "' has no input '" + name + "'");
  const ValueId id = plan_.program.by_name.at(name);
  const Slot& slot = plan_.slots[static_cast<size_t>(id)];
  return make_tensor(region_base(Region::kInput, slot_set) + slot.offset, plan_.program.value(id).dtype,
                     plan_.program.local_shape(id));
}

Tensor Executor::received(const std::string& name, int slot_set) const {
  const auto found = plan_.program.by_name.find(name);
  MEGATRON_CHECK(
      found != plan_.program.by_name.end() && plan_.program.value(found->second).lifetime == Lifetime::kReceived,
      "program '" + plan_.program.name + "' receives no '" + name + "'");
  return const_cast<Executor*>(this)->bind(found->second, slot_set);
}

Tensor Executor::output(const std::string& name, int slot_set) const {
  for (const NamedValue& output : plan_.program.outputs) {
    if (output.name == name) return const_cast<Executor*>(this)->bind(output.value, slot_set);
  }
  fail_check(__FILE__, __LINE__, "output", "program '" + plan_.program.name + "' has no output '" + name + "'");
}

void Executor::stage(const std::string& name, const void* data, int64_t bytes) {
  if (stages_.empty()) {
    stages_.resize(static_cast<size_t>(options_.staged));
    for (Stage& stage : stages_) {
      stage.memory = Buffer(device(), plan_.input_bytes, Buffer::Place::kHost);
      stage.copied = device().make_event();
    }
  }
  Stage& stage = stages_[stage_];
  if (stage.written.empty()) stage.copied->synchronize();
  const Tensor target = input(name);
  MEGATRON_CHECK(target.bytes() == bytes,
                 "input '" + name + "' of program '" + plan_.program.name + "' has another size");
  const std::byte* base = region_base(Region::kInput, 0);
  if (bytes > 0)
    std::memcpy(stage.memory.data() + (static_cast<std::byte*>(target.data) - base), data, static_cast<size_t>(bytes));
  stage.written.insert(name);
}

void Executor::upload(int slot_set) {
  for (const auto& [name, id] : plan_.program.by_name) {
    const bool missing = has_input(name) && (stages_.empty() || stages_[stage_].written.count(name) == 0);
    MEGATRON_CHECK(!missing, "input '" + name + "' of program '" + plan_.program.name + "' was not staged");
  }
  if (stages_.empty()) return;  // a program without inputs
  Stage& stage = stages_[stage_];
  device().enqueue_to_device(region_base(Region::kInput, slot_set), stage.memory.data(), plan_.input_bytes);
  device().record(*stage.copied);
  stage.written.clear();
  stage_ = (stage_ + 1) % stages_.size();
}

void Executor::run(Phase phase, int slot_set, bool edge) {
  PhaseStates& states = phases_[static_cast<size_t>(slot_set)][static_cast<size_t>(phase)];
  PhaseState& state = edge || !states.has_edges ? states.whole : states.inner;
  if (state.ops.empty()) return;
  if (observed()) return enqueue(phase, state);
  if (options_.graphs && state.ran && !state.graph) state.graph = device().capture([&] { enqueue(phase, state); });
  if (state.graph) return state.graph->launch();
  enqueue(phase, state);
  state.ran = true;
}

void Executor::enqueue(Phase phase, const PhaseState& state) {
  if (state.forks) {
    device().record(*fork_);
    for (int s = 1; s < Device::kStreams; ++s) device().wait(*fork_, s);
  }
  for (const BoundOp& bound : state.ops) enqueue_op(phase, bound);
  for (int s = 1; s < Device::kStreams && state.forks; ++s) {
    device().record(*join_[static_cast<size_t>(s)], s);
    device().wait(*join_[static_cast<size_t>(s)], 0);
  }
}

void Executor::enqueue_op(Phase phase, const BoundOp& bound) {
  if (observer_.before) observer_.before(phase, bound);
  const Op& op = plan_.program.op(bound.id);
  const int stream = static_cast<int>(op.stream);
  for (Event* event : bound.waits) device().wait(*event, stream);
  for (const auto& [from, to] : bound.copies) {
    MEGATRON_CHECK(from.contiguous() && to.contiguous(), "only dense values accumulate");
    device().copy_within(to.data, from.data, from.bytes(), stream);
  }
  RunContext context;
  context.operands = bound.operands;
  context.results = bound.results;
  context.accumulate = bound.accumulate;
  context.operand_origins = bound.operand_origins;
  context.result_origins = bound.result_origins;
  context.workspace = bound.workspace;
  context.pool = options_.pool;
  context.stream = device().stream(stream);
  context.comm = bound.comm;
  if (bound.comm != nullptr) {  // what works in place has no results
    const ValueId subject = op.results.empty() ? op.operands[0] : op.results[0];
    bound.comm->set_subject(&plan_.program.value(subject).name);
  }
  const ProfileRange range(op.scope.empty() ? op.kind->name() : op.scope);
  if (device().kind() == DeviceKind::kCuda) {
    op.kind->run_cuda(context);
  } else {
    op.kind->run_cpu(context);
  }
  if (bound.comm != nullptr) bound.comm->set_subject(nullptr);
  if (bound.done != nullptr) device().record(*bound.done, stream);
  if (observer_.after) observer_.after(phase, bound);
}

namespace {

/// Index of the first element that is not finite, or -1.
int64_t first_non_finite(const Tensor& t, double* bad) {
  if (!t || !is_floating(t.dtype)) return -1;
  int64_t found = -1, seen = 0;
  dispatch_floating("first_non_finite", t.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* data = t.as<T>();
    for_each_row(t.shape, t.strides, t.strides, [&](int64_t offset, int64_t, int64_t length) {
      for (int64_t i = 0; i < length && found < 0; ++i) {
        const double value = static_cast<double>(data[offset + i]);
        if (std::isfinite(value)) continue;
        found = seen + i;
        *bad = value;
      }
      seen += length;
    });
  });
  return found;
}

}  // namespace

std::unique_ptr<NonFinite> find_non_finite(const std::vector<Executor*>& parts, const std::vector<int>& positions,
                                           const std::function<void()>& run) {
  constexpr int64_t kPart = 1 << 24, kPhase = int64_t{1} << 48;
  std::unique_ptr<NonFinite> first;
  for (size_t part = 0; part < parts.size(); ++part) {
    Executor& executor = *parts[part];
    const Program& program = executor.plan().program;
    const int place = positions[part];
    const auto order = std::make_shared<int64_t>(0);
    const auto look = [&executor, &program, &first, order, place](Phase phase, const Executor::BoundOp& bound) {
      const Op& op = program.op(bound.id);
      const std::vector<Tensor>& results = bound.results;
      // The backward passes the parts the other way.
      const int64_t position = static_cast<int64_t>(phase) * kPhase +
                               (phase == Phase::kForward ? place : (1 << 20) - place) * kPart + (*order)++;
      for (size_t r = 0; r < results.size() && !first; ++r) {
        double bad = 0;
        const HostTensor host = to_host(executor.device(), results[r]);
        const int64_t index = first_non_finite(host.tensor, &bad);
        if (index < 0) continue;
        const ValueInfo& info = program.value(op.results[r]);
        int64_t sample = -1;
        if (info.sample_dim >= 0) {
          int64_t inner = 1;
          for (int d = info.sample_dim + 1; d < results[r].shape.rank(); ++d) inner *= results[r].shape[d];
          sample = index / inner % results[r].shape[info.sample_dim];
        }
        first = std::make_unique<NonFinite>(NonFinite{name_of(phase), op.scope, op.kind->name(),
                                                      program.label(op.results[r]), index, sample, bad, position});
      }
    };
    executor.set_observer({nullptr, look});
  }
  run();
  for (Executor* executor : parts) executor->set_observer({});
  return first;
}

std::unique_ptr<NonFinite> find_non_finite(Executor& executor) {
  return find_non_finite({&executor}, {0}, [&] {
    for (int phase = 0; phase < kPhases; ++phase) executor.run(static_cast<Phase>(phase));
  });
}

}  // namespace megatron
