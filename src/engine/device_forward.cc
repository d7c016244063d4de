#include "engine/device_forward.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "device/scratch.h"

namespace fiddler {
namespace {

// Batches up to this size come again and again: one token for each running sequence.
constexpr int64_t kCapturedTokens = 16;

int64_t TableStride(const ForwardLimits& limits) { return KvCache::BlocksFor(limits.positions); }

ScratchLimits ScratchLimitsOf(const PackedModel& model, const ForwardLimits& limits) {
  const ModelSpec& spec = model.spec;
  ScratchLimits scratch = {.tokens = std::max(limits.batch_tokens, limits.logit_rows),
                           .cols = std::max(spec.hidden, spec.attention.q_width()),
                           .num_heads = spec.attention.num_heads,
                           .head_dim = spec.attention.head_dim};
  for (const PackedLayer& layer : model.weights.layers) {
    for (const SlicedFfn& ffn : {layer.dense, layer.shared}) {
      scratch.slice_neurons = std::max(scratch.slice_neurons, ffn.slice_neurons);
    }
    if (!layer.experts.empty()) {
      scratch.slice_neurons = std::max(scratch.slice_neurons, layer.experts.front().slice_neurons);
    }
  }
  return scratch;
}

}  // namespace

DeviceForward::Buffers DeviceForward::TakeBuffers(const PackedModel& model, const ForwardLimits& limits,
                                                  DeviceArena& arena) {
  const ModelSpec& spec = model.spec;
  const int64_t tokens = limits.batch_tokens;
  return {.hidden = arena.Array<float>(tokens * spec.hidden),
          .normed = arena.Array<float>(tokens * spec.hidden),
          .branch = arena.Array<float>(tokens * spec.hidden),
          .q = arena.Array<float>(tokens * spec.attention.q_width()),
          .k = arena.Array<float>(tokens * spec.attention.kv_width()),
          .v = arena.Array<float>(tokens * spec.attention.kv_width()),
          .attended = arena.Array<float>(tokens * spec.attention.q_width()),
          .logits = arena.Array<float>(limits.logit_rows * spec.vocab_size),
          .rows = arena.Array<int32_t>(limits.logit_rows),
          .positions = arena.Array<int32_t>(tokens),
          .sequences = arena.Array<int32_t>(tokens),
          .block_tables = arena.Array<int32_t>(limits.sequences * TableStride(limits)),
          .scratch = arena.Take(ScratchBytes(ScratchLimitsOf(model, limits)), "scratch"),
          .experts = HybridExperts::TakeBuffers(spec, tokens, arena)};
}

uint64_t DeviceForward::StagingBytes(const PackedModel& model, const ForwardLimits& limits) {
  const int64_t numbers = limits.batch_tokens * (model.spec.hidden + 2) +
                          limits.logit_rows * (model.spec.vocab_size + 1) +
                          limits.sequences * TableStride(limits);
  return static_cast<uint64_t>(numbers) * sizeof(float);  // floats and int32
}

MemoryNeeds DeviceMemoryNeeds(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                              const ForwardLimits& limits) {
  MemoryNeeds needs;
  for (const PackedLayer& layer : model.weights.layers) {
    if (layer.experts.empty()) continue;
    const SlicedFfn& expert = layer.experts.front();
    needs.slice_bytes = static_cast<uint64_t>(expert.slice_bytes());
    needs.num_expert_slices += std::ssize(layer.experts) * expert.num_slices();
  }
  DeviceArena kv;
  kv.Take(KvCache::Bytes(KvGeometryOf(model, limits.arithmetic), limits.kv_blocks), "keys and values");
  DeviceArena buffers;
  DeviceForward::TakeBuffers(model, limits, buffers);
  needs.device_dense_bytes = DeviceWeightBytes(model, limits.positions);
  needs.kv_bytes = kv.taken();
  needs.device_workspace_bytes = buffers.taken() +
                                 ExpertStore::SlotBytes(0, static_cast<int64_t>(needs.slice_bytes)) +
                                 DeviceArena::kAlignment;  // the slots are a multiple of it

  Workspace workspace(Workspace::Mode::kCount);
  const ParallelOps ops(kernels, pool, limits.arithmetic, limits.batch_tokens, model.spec.hidden, workspace);
  const SlicedFfnRunner runner(FfnLimitsOf(model, limits.batch_tokens), ops, workspace);
  needs.host_weight_bytes = TotalBytes(model.weights);
  needs.host_workspace_bytes = workspace.bytes() + DeviceForward::StagingBytes(model, limits) +
                               HybridExperts::MailboxBytes(model.spec, limits.batch_tokens);
  return needs;
}

DeviceForward::DeviceForward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                             const ForwardLimits& limits, const DeviceSetup& setup)
    : model_(model),
      limits_(limits),
      device_(*setup.device),
      stream_(device_.CreateStream()),
      ops_(kernels, pool, limits.arithmetic, limits.batch_tokens, model.spec.hidden, workspace_),
      arena_(device_) {
  const ModelSpec& spec = model.spec;
  const MemoryNeeds needs = DeviceMemoryNeeds(model, kernels, pool, limits);
  const MemoryPlan plan =
      PlanMemory(needs, {.gpu_memory_bytes = setup.memory_bytes, .ram_bytes = UINT64_MAX});
  if (!plan.fits) throw Error("{}", plan.reason);
  weights_ = UploadWeights(model, limits.positions, device_, arena_);
  kv_ = arena_.Take(KvCache::Bytes(KvGeometryOf(model, limits.arithmetic), limits.kv_blocks),
                    "keys and values");
  buffers_ = TakeBuffers(model, limits, arena_);
  device_.SetScratch(buffers_.scratch, ScratchBytes(ScratchLimitsOf(model, limits)));

  const std::unique_ptr<bool[]> is_moe(new bool[spec.layers.size()]);
  for (size_t l = 0; l < spec.layers.size(); ++l) is_moe[l] = spec.layers[l].is_moe;
  const SlicedFfn& typical = TypicalFfn(model.weights);
  policy_ = setup.make_policy({.num_layers = spec.num_layers(),
                               .is_moe = {is_moe.get(), spec.layers.size()},
                               .num_experts = spec.moe.num_experts,
                               .num_slices = typical.num_slices(),
                               .num_slots = plan.num_slots},
                              setup.cost);
  store_ = std::make_unique<ExpertStore>(*model.host_experts, static_cast<int64_t>(needs.slice_bytes),
                                         policy_->Slots(), device_, stream_, arena_);
  store_->Place(policy_->Placement(setup.popularity));
  experts_ = std::make_unique<HybridExperts>(model, ops_, limits, workspace_, device_, stream_,
                                             buffers_.experts, *store_, *policy_);

  const int64_t tokens = limits.batch_tokens;
  staging_ = PinnedBuffer(device_, StagingBytes(model, limits), "staging");
  embedded_ = staging_.as<float>();
  host_logits_ = embedded_ + tokens * spec.hidden;
  host_rows_ = reinterpret_cast<int32_t*>(host_logits_ + limits.logit_rows * spec.vocab_size);
  positions_ = host_rows_ + limits.logit_rows;
  sequences_ = positions_ + tokens;
  block_tables_ = sequences_ + tokens;
}

DeviceForward::~DeviceForward() {
  for (const auto& [key, segment] : segments_) {
    if (!segment) continue;
    try {
      device_.ReleaseSegment(*segment);
    } catch (const Error&) {
      return;  // a device that has failed lets go of everything when it is closed
    }
  }
}

void DeviceForward::Run(std::span<const BatchEntry> batch) {
  const ModelSpec& spec = model_.spec;
  const int64_t tokens = CountTokens(batch);
  CheckBatch(batch, spec, limits_);

  Upload(batch);
  store_->residency().AdvanceTokens(tokens);
  for (int64_t l = 0; l < spec.num_layers(); ++l) {
    QueueLayer(l, tokens);
    if (spec.layers[static_cast<size_t>(l)].is_moe) {
      experts_->Run(l, weights_.layers[static_cast<size_t>(l)], tokens, buffers_.normed, buffers_.branch);
    } else {
      QueueDenseFfn(l, tokens);
    }
  }
  QueueAddBranch(tokens);
  QueueNorm(tokens, weights_.final_norm, buffers_.normed);
}

// Where every token stands, and its row of the embedding.
void DeviceForward::Upload(std::span<const BatchEntry> batch) {
  device_.Synchronize(stream_);  // what was staged for the last step has been read
  const int64_t hidden = model_.spec.hidden;
  const int64_t stride = TableStride(limits_);
  int64_t row = 0;
  for (size_t s = 0; s < batch.size(); ++s) {
    const BatchEntry& entry = batch[s];
    CHECK(std::ssize(entry.block_table) <= stride, "{} blocks", entry.block_table.size());
    std::copy(entry.block_table.begin(), entry.block_table.end(),
              block_tables_ + static_cast<int64_t>(s) * stride);
    for (size_t t = 0; t < entry.tokens.size(); ++t, ++row) {
      positions_[row] = static_cast<int32_t>(entry.first_position + static_cast<int64_t>(t));
      sequences_[row] = static_cast<int32_t>(s);
      UnpackRow(model_.weights.embedding, entry.tokens[t], embedded_ + row * hidden);
    }
  }
  const auto copy = [&](FiddlerAddress to, const void* from, int64_t count) {
    device_.CopyIn(stream_, to, from, static_cast<uint64_t>(count) * 4);
  };
  copy(buffers_.hidden, embedded_, row * hidden);
  copy(buffers_.positions, positions_, row);
  copy(buffers_.sequences, sequences_, row);
  copy(buffers_.block_tables, block_tables_, std::ssize(batch) * stride);
}

void DeviceForward::QueueLayer(int64_t index, int64_t tokens) {
  if (tokens > kCapturedTokens) return QueueUpToRouting(index, tokens);
  const auto [place, is_new] = segments_.try_emplace({tokens, index});
  if (is_new) return QueueUpToRouting(index, tokens);  // not worth it for a size that never comes again
  if (!place->second) {
    place->second = CaptureUpToRouting(index, tokens);
  }
  device_.Launch(stream_, *place->second);
}

FiddlerSegment DeviceForward::CaptureUpToRouting(int64_t index, int64_t tokens) {
  device_.BeginCapture(stream_);
  try {
    QueueUpToRouting(index, tokens);
  } catch (const Error&) {
    try {  // else the stream would capture whatever comes next
      device_.ReleaseSegment(device_.EndCapture(stream_));
    } catch (const Error&) {  // the first error says more
    }
    throw;
  }
  return device_.EndCapture(stream_);
}

void DeviceForward::QueueUpToRouting(int64_t index, int64_t tokens) {
  const DeviceLayer& layer = weights_.layers[static_cast<size_t>(index)];
  if (index > 0) QueueAddBranch(tokens);  // of the layer before
  QueueNorm(tokens, layer.attention_norm, buffers_.normed);
  QueueAttention(index, tokens);
  QueueAddBranch(tokens);

  QueueNorm(tokens, layer.ffn_norm, buffers_.normed);
  if (model_.spec.layers[static_cast<size_t>(index)].is_moe) {
    experts_->QueueRouting(layer, tokens, buffers_.normed);
  }
}

void DeviceForward::QueueAttention(int64_t index, int64_t tokens) {
  const DeviceLayer& layer = weights_.layers[static_cast<size_t>(index)];
  const PackedLayer& packed = model_.weights.layers[static_cast<size_t>(index)];
  const AttentionSpec& attention = model_.spec.attention;
  QueueProduct(tokens, buffers_.normed, layer.q, layer.q_bias, buffers_.q);
  QueueProduct(tokens, buffers_.normed, layer.k, layer.k_bias, buffers_.k);
  QueueProduct(tokens, buffers_.normed, layer.v, layer.v_bias, buffers_.v);
  device_.RotateStore(stream_, {.batch = BatchOf(tokens),
                                .num_heads = attention.num_heads,
                                .q = buffers_.q,
                                .k = buffers_.k,
                                .v = buffers_.v,
                                .q_norm = layer.q_norm,
                                .k_norm = layer.k_norm,
                                .q_norm_cols = std::ssize(packed.q_norm),
                                .k_norm_cols = std::ssize(packed.k_norm),
                                .epsilon = model_.spec.rms_norm_epsilon,
                                .clamp = attention.clip_qkv.value_or(0),
                                .rotary_dim = model_.spec.rope.rotary_dim,
                                .cosine = weights_.cosine,
                                .sine = weights_.sine,
                                .kv = KvOf(index)});
  device_.Attend(stream_, {.batch = BatchOf(tokens),
                           .num_heads = attention.num_heads,
                           .q = buffers_.q,
                           .out = buffers_.attended,
                           .window = model_.spec.layers[static_cast<size_t>(index)].sliding_window,
                           .scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim)),
                           .padding = 0,
                           .kv = KvOf(index)});
  QueueProduct(tokens, buffers_.attended, layer.o, layer.o_bias, buffers_.branch);
}

void DeviceForward::QueueDenseFfn(int64_t index, int64_t tokens) {
  const SlicedFfn& dense = model_.weights.layers[static_cast<size_t>(index)].dense;
  const FiddlerSlices all = {.slice = weights_.layers[static_cast<size_t>(index)].dense,
                             .num_slices = dense.num_slices(),
                             .tokens = tokens,
                             .rows = nullptr,
                             .weights = nullptr,
                             .weights_on_device = 0};
  device_.Clear(stream_, buffers_.branch, static_cast<uint64_t>(tokens * model_.spec.hidden) * sizeof(float));
  device_.Ffn(stream_, {.hidden = dense.hidden,
                        .slice_neurons = dense.slice_neurons,
                        .slice_bytes = dense.slice_bytes(),
                        .format = static_cast<int32_t>(dense.format),
                        .rounding = static_cast<int32_t>(ops_.RoundingFor(dense.format)),
                        .x = buffers_.normed,
                        .out = buffers_.branch,
                        .entries = &all,
                        .num_entries = 1});
}

void DeviceForward::QueueNorm(int64_t tokens, FiddlerAddress weight, FiddlerAddress y) {
  device_.RmsNorm(stream_, {.rows = tokens,
                            .cols = model_.spec.hidden,
                            .x = buffers_.hidden,
                            .y = y,
                            .weight = weight,
                            .epsilon = model_.spec.rms_norm_epsilon,
                            .padding = 0});
}

void DeviceForward::QueueProduct(int64_t tokens, FiddlerAddress x, const FiddlerMatrix& w,
                                 FiddlerAddress bias, FiddlerAddress y) {
  const Rounding rounding = ops_.RoundingFor(static_cast<WeightFormat>(w.format));
  device_.MatMul(stream_, {.tokens = tokens,
                           .x = x,
                           .row_index = 0,
                           .w = w,
                           .bias = bias,
                           .y = y,
                           .rounding = static_cast<int32_t>(rounding),
                           .padding = 0});
}

void DeviceForward::QueueAddBranch(int64_t tokens) {
  device_.Add(stream_, {.count = tokens * model_.spec.hidden, .x = buffers_.branch, .y = buffers_.hidden});
}

std::span<float> DeviceForward::Logits(std::span<const int32_t> rows) {
  const auto count = static_cast<int64_t>(rows.size());
  CHECK(count <= limits_.logit_rows, "{} rows", count);
  device_.Synchronize(stream_);  // the rows of the last call have been read
  std::copy(rows.begin(), rows.end(), host_rows_);
  device_.CopyIn(stream_, buffers_.rows, host_rows_, rows.size() * sizeof(int32_t));
  const WeightFormat format = model_.weights.head.format;
  device_.MatMul(stream_, {.tokens = count,
                           .x = buffers_.normed,
                           .row_index = buffers_.rows,
                           .w = weights_.head,
                           .bias = 0,
                           .y = buffers_.logits,
                           .rounding = static_cast<int32_t>(ops_.RoundingFor(format)),
                           .padding = 0});
  const auto numbers = static_cast<size_t>(count * model_.spec.vocab_size);
  device_.CopyOut(stream_, host_logits_, buffers_.logits, numbers * sizeof(float));
  device_.Synchronize(stream_);
  return {host_logits_, numbers};
}

FiddlerBatch DeviceForward::BatchOf(int64_t tokens) const {
  return {.tokens = tokens,
          .positions = buffers_.positions,
          .sequences = buffers_.sequences,
          .block_tables = buffers_.block_tables,
          .table_stride = TableStride(limits_)};
}

FiddlerKv DeviceForward::KvOf(int64_t index) const {
  const KvGeometry geometry = KvGeometryOf(model_, limits_.arithmetic);
  const KvLayout layout = {.dtype = geometry.dtype, .head_dim = geometry.head_dim};
  const int64_t head_stride = limits_.kv_blocks * layout.bytes();
  return {.layer = kv_ + static_cast<FiddlerAddress>(index * geometry.num_kv_heads * head_stride),
          .head_stride = head_stride,
          .kv_heads = geometry.num_kv_heads,
          .head_dim = geometry.head_dim,
          .dtype = static_cast<int32_t>(geometry.dtype),
          .padding = 0};
}

}  // namespace fiddler
