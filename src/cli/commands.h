// One function per sub-command, each in its own file: it registers the sub-command with its options, and a callback
// that does the work. A callback ends normally for exit code 0, throws megatron::Error for the others.
#pragma once

namespace CLI {
class App;
}

namespace megatron {

void add_bench_command(CLI::App& app);
void add_checkpoint_command(CLI::App& app);
void add_config_command(CLI::App& app);
void add_convert_command(CLI::App& app);
void add_data_command(CLI::App& app);
void add_doctor_command(CLI::App& app);
void add_finetune_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_preprocess_command(CLI::App& app);
void add_pretrain_command(CLI::App& app);
void add_tokenizer_command(CLI::App& app);
void add_validate_command(CLI::App& app);

}  // namespace megatron
