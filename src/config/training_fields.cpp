// Sections training, optimizer, precision and checkpoint.
#include "config/field.h"

namespace megatron {

namespace {

void add_recompute_fields(FieldList& list, TrainingConfig& c) {
  list.add("recompute_activations", c.recompute_activations, "Short for recompute_granularity: selective.");
  list.add("recompute_granularity", c.recompute_granularity,
           "Compute activations again in the backward instead of keeping them: of whole layers (full) or of "
           "recompute_modules (selective). Not set: keep all.")
      .choice({"full", "selective"});
  list.add(
          "recompute_method", c.recompute_method,
          "Which layers with full: chunks of recompute_num_layers (uniform) or the first recompute_num_layers (block); "
          "counted on each pipeline stage.")
      .choice({"uniform", "block"});
  list.add("recompute_num_layers", c.recompute_num_layers, "See recompute_method.").at_least(1);
  list.add("recompute_modules", c.recompute_modules, "What selective computes again.")
      .choice({"core_attn", "layernorm", "mlp"});
}

}  // namespace

std::vector<Field> fields(TrainingConfig& c) {
  FieldList list(OnResume::kAllowed);
  list.add("micro_batch_size", c.micro_batch_size, "Samples that go through the model at once on one rank.")
      .required()
      .at_least(1);
  list.add("global_batch_size", c.global_batch_size,
           "Samples in one step over all ranks. Not set: the last size of step_batch_size_schedule, else "
           "micro_batch_size times the data-parallel size.")
      .derived()
      .at_least(1)
      .refused();
  list.add(
      "step_batch_size_schedule", c.step_batch_size_schedule,
      "Batch size by consumed tokens: \"0:768 250B:1536\". global_batch_size is then the last one, which may "
      "not change on resume; with it lengths in iterations count as samples, and evaluations are that large. Where "
      "the size changes, a checkpoint is saved, if there is a save_interval.");
  list.add("train_iters", c.train_iters, "Length of the training in steps (or give train_samples).").at_least(1);
  list.add("train_samples", c.train_samples, "Length of the training in samples (or give train_iters).").at_least(1);
  list.add("eval_interval", c.eval_interval,
           "Steps between evaluations on the validation data. Not set: only before the first step and at the end.")
      .at_least(1);
  list.add("eval_iters", c.eval_iters, "Global batches in one evaluation; 0 switches evaluation off.").at_least(0);
  list.add("start_eval_at_iter", c.start_eval_at_iter, "First iteration at which eval_interval may evaluate.")
      .at_least(0);
  list.add("full_validation", c.full_validation,
           "Evaluate on the whole validation data instead of eval_iters batches.");
  list.add("skip_train", c.skip_train,
           "Only evaluate; where there is no checkpoint to go on from, also save the initial weights as iteration 0.");
  list.add(
          "calculate_per_token_loss", c.calculate_per_token_loss,
          "One divisor for the loss: the weighted tokens of the whole global batch. false: the mean over micro-batches "
          "of each one's mean.")
      .refused();
  add_recompute_fields(list, c);
  list.add("iterations_to_skip", c.iterations_to_skip, "Iterations whose batch is read but not trained on.")
      .at_least(1);
  list.add(
      "check_for_nan_in_loss_and_grad", c.check_for_nan_in_loss_and_grad,
      "A gradient norm that is not finite ends the run. false: the step changes nothing, is counted, and the run "
      "goes on; the first bad value is named either way (run.replay_non_finite). true also makes the host wait for "
      "every step.");
  list.add("cuda_graph_impl", c.cuda_graph_impl,
           "local: on a GPU each phase of a step is recorded once and then replayed. none: operation by operation, as "
           "profilers like it.")
      .choice({"local", "none"})
      .ignored();
  list.add("use_nsys_profiler", c.use_nsys_profiler,
           "Let `nsys profile --capture-range=cudaProfilerApi` record the iterations of section profile. Modules show "
           "as ranges with cuda_graph_impl: none.")
      .ignored();
  return list.take();
}

std::vector<Field> fields(OptimizerConfig& c) {
  FieldList list(OnResume::kAllowed);
  list.add("optimizer", c.optimizer, "Update rule; adam decays weights apart from the gradient (AdamW).")
      .choice({"adam", "sgd"})
      .refused();
  list.add("lr", c.lr, "Highest learning rate.").required().above(0);
  list.add("min_lr", c.min_lr, "Learning rate at the end of the decay.").at_least(0);
  list.add("lr_decay_style", c.lr_decay_style, "Curve of the learning rate after warm-up.")
      .choice({"constant", "linear", "cosine", "inverse-square-root", "WSD"});
  list.add("lr_decay_iters", c.lr_decay_iters, "Steps until min_lr. Not set: training.train_iters.").at_least(1);
  list.add("lr_decay_samples", c.lr_decay_samples, "Samples until min_lr. Not set: training.train_samples.")
      .at_least(1);
  list.add("lr_warmup_fraction", c.lr_warmup_fraction, "Warm-up as a fraction of the decay length.")
      .at_least(0)
      .below(1);
  list.add("lr_warmup_iters", c.lr_warmup_iters, "Steps of warm-up.").at_least(0);
  list.add("lr_warmup_samples", c.lr_warmup_samples, "Samples of warm-up.").at_least(0);
  list.add("lr_warmup_init", c.lr_warmup_init, "Learning rate at the start of warm-up.").at_least(0);
  list.add("lr_wsd_decay_style", c.lr_wsd_decay_style, "Curve of the last part of WSD.")
      .choice({"exponential", "linear", "cosine", "minus_sqrt"});
  list.add("lr_wsd_decay_iters", c.lr_wsd_decay_iters, "Steps of the last part of WSD.").at_least(1);
  list.add("lr_wsd_decay_samples", c.lr_wsd_decay_samples, "Samples of the last part of WSD.").at_least(1);
  list.add("weight_decay", c.weight_decay, "Weight decay of matrices; biases and norm weights have none.").at_least(0);
  list.add("start_weight_decay", c.start_weight_decay, "Weight decay at the start of a ramp.").at_least(0);
  list.add("end_weight_decay", c.end_weight_decay, "Weight decay at the end of a ramp.").at_least(0);
  list.add("weight_decay_incr_style", c.weight_decay_incr_style, "Curve from start_ to end_weight_decay.")
      .choice({"constant", "linear", "cosine"});
  list.add("adam_beta1", c.adam_beta1, "Decay of the first moment.").at_least(0).below(1);
  list.add("adam_beta2", c.adam_beta2, "Decay of the second moment.").at_least(0).below(1);
  list.add("adam_eps", c.adam_eps, "Added to the root of the second moment.").above(0);
  list.add("sgd_momentum", c.sgd_momentum, "Momentum of sgd.").at_least(0).below(1);
  list.add("clip_grad", c.clip_grad, "Largest global gradient norm; 0 is no limit.").at_least(0);
  list.add("override_opt_param_scheduler", c.override_opt_param_scheduler,
           "On resume take schedule settings from here where the checkpoint says otherwise.");
  list.add("use_checkpoint_opt_param_scheduler", c.use_checkpoint_opt_param_scheduler,
           "On resume take schedule settings from the checkpoint.");
  list.add("apply_wd_to_qk_layernorm", c.apply_wd_to_qk_layernorm,
           "Weight decay on the norms of queries and keys too.");
  list.add("decoupled_lr", c.decoupled_lr, "Highest learning rate of embedding and output layer. Not set: lr.")
      .above(0);
  list.add("decoupled_min_lr", c.decoupled_min_lr, "min_lr of embedding and output layer. Not set: min_lr.")
      .at_least(0);
  return list.take();
}

std::vector<Field> fields(PrecisionConfig& c) {
  FieldList list(OnResume::kAllowed);
  list.add("params_dtype", c.params_dtype,
           "Format of weights and activations; bf16 and fp16 keep fp32 master weights. fp64 is for the CPU.")
      .choice({"fp64", "fp32", "bf16", "fp16"})
      .refused();
  list.add("loss_scale", c.loss_scale, "fp16: constant loss scale. Not set: dynamic.").above(0);
  list.add("initial_loss_scale", c.initial_loss_scale, "fp16: first dynamic loss scale.").at_least(1);
  list.add("min_loss_scale", c.min_loss_scale, "fp16: smallest dynamic loss scale.").above(0);
  list.add("loss_scale_window", c.loss_scale_window, "fp16: finite steps until the loss scale doubles.").at_least(1);
  list.add("hysteresis", c.hysteresis, "fp16: non-finite steps until the loss scale is halved.").at_least(1);
  list.add("grad_reduce_in_bf16", c.grad_reduce_in_bf16,
           "Gradients travel between data-parallel ranks as bf16; they are kept and added over micro-batches in fp32.");
  return list.take();
}

std::vector<Field> fields(CheckpointConfig& c) {
  FieldList list(OnResume::kIgnored);
  list.add("save", c.save, "Folder of the checkpoints. Not set: checkpoints in run.dir.").derived();
  list.add("load", c.load,
           "Folder to resume from, or weights to start from: a Hugging Face folder or a GGUF file. A folder without a "
           "checkpoint starts from scratch, and says so. Not set: from scratch.");
  list.add("save_interval", c.save_interval, "Steps between checkpoints. Not set: only at the end.").at_least(1);
  list.add("save_retain_interval", c.save_retain_interval,
           "Keep the checkpoints whose iteration is divisible by this, and the newest; delete the others.")
      .at_least(1);
  list.add("most_recent_k", c.most_recent_k, "Keep this many newest checkpoints. Not set: all.").at_least(1);
  list.add("exit_on_missing_checkpoint", c.exit_on_missing_checkpoint,
           "Refuse to start when `load` has no checkpoint.");
  list.add("ckpt_step", c.ckpt_step, "Load this iteration instead of the newest.").at_least(1);
  list.add("finetune", c.finetune, "Take only the weights from `load`; iteration, data and optimizer start anew.");
  list.add("load_optim", c.load_optim, "Load the optimizer state.").allowed();
  list.add("save_optim", c.save_optim, "Save the optimizer state.").allowed();
  list.add("async_save", c.async_save,
           "Copy the state to host memory and write checkpoints from there while training goes on.");
  list.add(
      "load_rng", c.load_rng,
      "Go on with the random numbers of the checkpoint, whose one state is run.seed. false: run.seed may change on "
      "resume, and with it dropout and the order of samples.");
  list.add("save_rng", c.save_rng,
           "Hold runs that go on from the checkpoints to this run's random numbers. false: they may have another "
           "run.seed, as with load_rng: false. With the same seed they go on bit by bit either way, because random "
           "numbers depend on the seed and the step alone.");
  return list.take();
}

}  // namespace megatron
