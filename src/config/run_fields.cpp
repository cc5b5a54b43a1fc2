// Sections run, parallel, data, logging and profile.
#include "config/field.h"

namespace megatron {

std::vector<Field> fields(RunConfig& c) {
  FieldList list(OnResume::kIgnored);
  list.add("dir", c.dir, "Folder of the run: resolved configuration, plan, metrics, logs, checkpoints.");
  list.add("device", c.device, "Where to compute; auto takes a GPU if there is one.").choice({"auto", "cpu", "cuda"});
  list.add("seed", c.seed, "Seed of initial weights, sample order and dropout.").at_least(0).refused();
  list.add("exit_interval", c.exit_interval,
           "Save a checkpoint and stop (exit code 75) when the iteration is divisible by this.")
      .at_least(1);
  list.add("exit_duration_in_mins", c.exit_duration_in_mins,
           "Save a checkpoint and stop (exit code 75) after this many minutes.")
      .above(0);
  list.add("deterministic_mode", c.deterministic_mode, "Use only operations that give the same bits every time.")
      .allowed();
  list.add("cpu_threads", c.cpu_threads, "Threads for computing on the CPU; 0 takes all cores.").at_least(0);
  list.add("replay_non_finite", c.replay_non_finite,
           "When a loss or gradient norm is not finite, run the step again in checking mode and name the first "
           "non-finite value with its operation, layer and samples.");
  return list.take();
}

namespace {

/// Stages: their order, and what lies on each.
void add_pipeline_fields(FieldList& list, ParallelConfig& c) {
  list.add("pipeline_schedule", c.pipeline_schedule,
           "Order of micro-batches on a pipeline: 1f1b, gpipe, or zero-bubble, which computes weight gradients where "
           "1f1b "
           "would wait. With several virtual stages each of them is interleaved.")
      .choice({"1f1b", "gpipe", "zero-bubble"});
  list.add("num_virtual_stages_per_pipeline_rank", c.num_virtual_stages_per_pipeline_rank,
           "Parts of the model on each pipeline rank, taken in turn: a shorter bubble for more transfers.")
      .at_least(1);
  list.add("num_layers_per_virtual_pipeline_stage", c.num_layers_per_virtual_pipeline_stage,
           "The same, told by the layers of a part.")
      .at_least(1);
  list.add("decoder_first_pipeline_num_layers", c.decoder_first_pipeline_num_layers,
           "Layers of the first pipeline rank; the others share the rest evenly.")
      .at_least(1);
  list.add("decoder_last_pipeline_num_layers", c.decoder_last_pipeline_num_layers,
           "Layers of the last pipeline rank; the others share the rest evenly.")
      .at_least(1);
  list.add("account_for_embedding_in_pipeline_split", c.account_for_embedding_in_pipeline_split,
           "Count the embedding as a layer of the first stage when layers are shared out.");
  list.add("account_for_loss_in_pipeline_split", c.account_for_loss_in_pipeline_split,
           "Count output layer and loss as a layer of the last stage when layers are shared out.");
  list.add("pipeline_model_parallel_layout", c.pipeline_model_parallel_layout,
           "What each stage holds, in the order of the model: E embedding, t a layer, a and f its attention and its "
           "MLP where they lie apart, L loss, | between stages, X*n or (...)*n repeats: \"Et*3|(tt|)*5tL\", "
           "\"Et*4a|ft*4|t*4a|ftL\".");
}

}  // namespace

std::vector<Field> fields(ParallelConfig& c) {
  FieldList list(OnResume::kAllowed);
  list.add("tensor_model_parallel_size", c.tensor_model_parallel_size, "Ranks that share each layer.").at_least(1);
  list.add("pipeline_model_parallel_size", c.pipeline_model_parallel_size, "Ranks that share the stack of layers.")
      .at_least(1);
  add_pipeline_fields(list, c);
  list.add("context_parallel_size", c.context_parallel_size, "Ranks that share each sequence.").at_least(1);
  list.add("cp_comm_type", c.cp_comm_type,
           "How attention crosses the ranks that share a sequence: p2p passes keys and values around while it works, "
           "all_gather fetches all of them first, a2a gives each rank whole sequences of some heads, a2a+p2p is a2a in "
           "groups of neighbours and p2p between the groups. One kind, for all layers.")
      .choice({"p2p", "all_gather", "a2a", "a2a+p2p"});
  list.add("hierarchical_context_parallel_sizes", c.hierarchical_context_parallel_sizes,
           "cp_comm_type a2a+p2p: [ranks of a group, number of groups], whose product is context_parallel_size.")
      .at_least(1);
  list.add("expert_model_parallel_size", c.expert_model_parallel_size, "Ranks that share the experts.").at_least(1);
  list.add("expert_tensor_parallel_size", c.expert_tensor_parallel_size,
           "Ranks that share each expert. Not set: tensor_model_parallel_size.")
      .derived()
      .at_least(1);
  list.add("sequence_parallel", c.sequence_parallel,
           "Split norms and dropouts along the sequence over the tensor-parallel ranks.");
  list.add("tp_comm_overlap", c.tp_comm_overlap,
           "Cut tensor-parallel collectives and the products beside them into pieces of the sequence that overlap.");
  list.add("data_parallel_sharding_strategy", c.data_parallel_sharding_strategy,
           "What data-parallel ranks divide among them instead of holding copies: nothing, the optimizer's state "
           "(ZeRO-1), "
           "gradients too (ZeRO-2), weights too (ZeRO-3: gathered layer by layer). Not set: no_shard, or optim with "
           "use_distributed_optimizer.")
      .derived()
      .choice({"no_shard", "optim", "optim_grads", "optim_grads_params"});
  list.add("use_distributed_optimizer", c.use_distributed_optimizer,
           "Divide the optimizer's state among the data-parallel ranks: data_parallel_sharding_strategy optim.");
  list.add("overlap_grad_reduce", c.overlap_grad_reduce,
           "Sum gradients over the data-parallel ranks, bucket by bucket, while the backward still runs; "
           "of a pipeline stage, that of the last micro-batch of each of its parts.");
  list.add("overlap_param_gather", c.overlap_param_gather,
           "With divided state: gather the updated weights while the forward already runs; with divided weights, those "
           "of a layer while the one before it runs.");
  list.add("ddp_bucket_size", c.ddp_bucket_size,
           "Elements after which a bucket of gradients or weights is communicated. Not set: the larger of 40 million "
           "and 1 million per data-parallel rank.")
      .at_least(1);
  list.add("num_distributed_optimizer_instances", c.num_distributed_optimizer_instances,
           "Groups of data-parallel ranks that each hold everything that is divided: less memory saved, less traffic "
           "between groups.")
      .at_least(1);
  list.add("distributed_timeout_minutes", c.distributed_timeout_minutes,
           "A job in which a rank has not moved for so long is ended (exit code 4), and the rank is named. Until the "
           "first step is done: three times as long.")
      .above(0)
      .ignored();
  return list.take();
}

std::vector<Field> fields(DataConfig& c) {
  FieldList list(OnResume::kRefused);
  list.add("data_path", c.data_path,
           "Prefixes of indexed data sets (PREFIX.bin, PREFIX.idx), each alone or all preceded by weights: "
           "[0.3, a, 0.7, b]. `split` divides them.");
  list.add("train_data_path", c.train_data_path, "As data_path, for training alone.");
  list.add("valid_data_path", c.valid_data_path, "As data_path, for validation alone.");
  list.add("test_data_path", c.test_data_path, "As data_path, for the final test alone.");
  list.add("split", c.split,
           "Shares of training, validation and test. Not set: \"969,30,1\", with mock_data \"1,1,1\".")
      .derived();
  list.add("mock_data", c.mock_data, "Made-up token sequences instead of files.");
  list.add("tokenizer_type", c.tokenizer_type,
           "HuggingFaceTokenizer reads tokenizer.json, GPT2BPETokenizer vocab.json and merges.txt; "
           "SentencePieceTokenizer, GPTSentencePieceTokenizer and Llama2Tokenizer read a SentencePiece model, and the "
           "last puts the begin token before prompts; ByteTokenizer takes bytes as ids, NullTokenizer text that is "
           "already numbers.")
      .choice({"HuggingFaceTokenizer", "GPT2BPETokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer",
               "Llama2Tokenizer", "ByteTokenizer", "NullTokenizer"});
  list.add("tokenizer_model", c.tokenizer_model,
           "HuggingFaceTokenizer: tokenizer.json, SentencePiece: tokenizer.model; or a folder that holds it.")
      .ignored();
  list.add("vocab_file", c.vocab_file, "GPT2BPETokenizer: vocab.json.").ignored();
  list.add("merge_file", c.merge_file, "GPT2BPETokenizer: merges.txt.").ignored();
  list.add("eod_mask_loss", c.eod_mask_loss, "No loss where the input is the end-of-document token.");
  list.add("reset_position_ids", c.reset_position_ids, "Positions start again after each end-of-document token.");
  list.add("reset_attention_mask", c.reset_attention_mask, "Tokens do not see across an end-of-document token.");
  list.add("num_workers", c.num_workers,
           "Steps whose batches a thread prepares ahead; 0 prepares each batch when the step takes it.")
      .at_least(0)
      .ignored();
  return list.take();
}

std::vector<Field> fields(LoggingConfig& c) {
  FieldList list(OnResume::kIgnored);
  list.add("log_interval", c.log_interval, "Iterations between printed lines.").at_least(1);
  list.add("tensorboard", c.tensorboard, "Write TensorBoard events.");
  list.add("tensorboard_dir", c.tensorboard_dir, "Folder of the TensorBoard events. Not set: tensorboard in run.dir.")
      .derived();
  list.add("tensorboard_log_interval", c.tensorboard_log_interval, "Iterations between TensorBoard events.")
      .at_least(1);
  list.add("log_level", c.log_level, "Least important message that is printed.")
      .choice({"debug", "info", "warning", "error"});
  return list.take();
}

std::vector<Field> fields(ProfileConfig& c) {
  FieldList list(OnResume::kIgnored);
  list.add("profile_step_start", c.profile_step_start, "First iteration that training.use_nsys_profiler records.")
      .at_least(1);
  list.add("profile_step_end", c.profile_step_end, "First iteration that it does not record any more.").at_least(2);
  return list.take();
}

std::vector<Field> fields(MachineConfig& c) {
  FieldList list(OnResume::kIgnored);
  list.add("device", c.device, "Name of the GPU that was measured. Not set: `plan` reckons no time.");
  list.add("measured", c.measured, "When, with which program and libraries; for people.");
  list.add("copy_bandwidth", c.copy_bandwidth, "Bytes per second of a large copy in device memory, read plus written.")
      .at_least(0);
  list.add("matrix_flops", c.matrix_flops, "FLOP/s of a large product of 16-bit matrices.").at_least(0);
  list.add("launch_seconds", c.launch_seconds, "Seconds that an operation takes which has next to nothing to do.")
      .at_least(0);
  list.add("sustained", c.sustained,
           "Time of operations within a step over their time taken alone: a GPU that works without a break runs at a "
           "lower "
           "clock. What `bench step` measures over what `plan --machine` says with 1 here.")
      .above(0);
  list.add("gpus_per_node", c.gpus_per_node, "GPUs that the measured links connect; ranks beyond are on other nodes.")
      .at_least(1);
  list.add("network_bandwidth", c.network_bandwidth,
           "Bytes per second and GPU, each way, between nodes. An assumption: 400 Gbit/s for each GPU.")
      .above(0);
  list.add("network_seconds", c.network_seconds, "Seconds of the smallest message between nodes. An assumption.")
      .at_least(0);
  list.add("operations", c.operations,
           "Measured operations, each \"KIND DTYPE FLOPS BYTES SECONDS\"; `bench ops --machine` writes them.");
  list.add("collectives", c.collectives,
           "Measured collectives, each \"KIND RANKS BYTES SECONDS\", bytes of the whole tensor; `bench comm --machine` "
           "writes them.");
  return list.take();
}

}  // namespace megatron
