// Step lines, and what a terminal and a file get to see.
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>

#include "base/strings.h"
#include "tests/catch.h"
#include "train/status_line.h"

namespace megatron {
namespace {

/// A stream into memory.
class Capture {
 public:
  Capture() : stream_(::open_memstream(&text_, &size_)) {}
  ~Capture() {
    std::fclose(stream_);
    std::free(text_);
  }
  std::FILE* stream() { return stream_; }
  std::string text() {
    std::fflush(stream_);
    return {text_, size_};
  }

 private:
  char* text_ = nullptr;
  size_t size_ = 0;
  std::FILE* stream_;
};

StepMetrics step(int64_t iteration) {
  StepMetrics m;
  m.iteration = iteration;
  m.lm_loss = 10.0 - static_cast<double>(iteration);
  m.grad_norm = 0.5;
  m.learning_rate = 1e-3;
  m.step_seconds = 2.0;
  m.tokens_per_second = 1500;
  m.data_wait_fraction = 0.01;
  return m;
}

}  // namespace

TEST_CASE("the step line has the documented form") {
  StepSummary s;
  s.iteration = 1200;
  s.total_iterations = 95000;
  s.lm_loss = 2.81341;
  s.grad_norm = 0.4123;
  s.learning_rate = 2.981e-4;
  s.step_seconds = 15.82;
  s.tokens_per_second = 132600;
  s.mfu = 0.4692;
  s.data_wait_fraction = 0.002;
  s.eta_seconds = 17 * 86400 + 3.4 * 3600;
  CHECK(format_step_line(s) ==
        "step 1200/95000 | loss 2.8134 | norm 0.412 | lr 2.98e-04 | 15.8 s | 133 ktok/s | mfu 46.9 % | data 0.2 % | "
        "eta 17d03h");
  s.mfu.reset();  // CPU
  s.eta_seconds.reset();
  s.loss_scale = 65536;
  s.skipped = 2;
  s.lm_loss.reset();
  s.losses = {{"load_balancing_loss", 1.0125}};
  s.step_seconds = 0.0421;
  s.tokens_per_second = 812.4;
  CHECK(format_step_line(s) ==
        "step 1200/95000 | loss - | load balancing loss 1.012 | norm 0.412 | lr 2.98e-04 | scale 65536 | 42 ms | "
        "812 tok/s | data 0.2 % | skipped 2");
}

TEST_CASE("token rates and times keep three digits over all magnitudes") {
  StepSummary s;
  const auto part = [&](size_t index) { return split(format_step_line(s), '|').at(index); };
  const auto rate = [&](double value) {
    s.tokens_per_second = value;
    return std::string(trim(part(5)));
  };
  CHECK(rate(999) == "999 tok/s");
  CHECK(rate(999.7) == "1.00 ktok/s");
  CHECK(rate(12345) == "12.3 ktok/s");
  CHECK(rate(2.5e6) == "2.50 Mtok/s");
  const auto time = [&](double value) {
    s.step_seconds = value;
    return std::string(trim(part(4)));
  };
  CHECK(time(250) == "250 s");
  CHECK(time(1.25) == "1.2 s");
  CHECK(time(0.25) == "250 ms");
  CHECK(time(0.00125) == "1.25 ms");
}

TEST_CASE("plain output: first iteration, every interval with means, the last, evaluations") {
  Capture capture;
  {
    StatusLine line(capture.stream(), {.log_interval = 4, .total_iterations = 6});
    StepMetrics before;
    before.trained = false;
    before.evaluations = {{"valid", "", {{"lm_loss", 11.0}}}};
    line.write(before);
    for (int64_t i = 1; i <= 6; ++i) {
      StepMetrics m = step(i);
      if (i == 3) {
        m.lm_loss = std::numeric_limits<double>::quiet_NaN();
        m.skipped = true;
      }
      if (i == 4) m.evaluations = {{"valid", "", {{"lm_loss", 2.0}}}};
      line.write(m);
      if (i != 6) continue;
      m.evaluations.push_back({"test", "books", {{"lm_loss", 1.0}}});
      line.write(m);
    }
  }
  CHECK(capture.text() ==
        "step 0/6 | valid loss 11.0000 | ppl 5.987e+04\n"
        "step 1/6 | loss 9.0000 | norm 0.500 | lr 1.00e-03 | 2.0 s | 1.50 ktok/s | data 1.0 % | eta 10.0s\n"
        "step 4/6 | loss 7.0000 | norm 0.500 | lr 1.00e-03 | 2.0 s | 1.50 ktok/s | data 1.0 % | skipped 1 | eta 4.0s\n"
        "step 4/6 | valid loss 2.0000 | ppl 7.389\n"
        "step 6/6 | loss 4.5000 | norm 0.500 | lr 1.00e-03 | 2.0 s | 1.50 ktok/s | data 1.0 %\n"
        "step 6/6 | test books loss 1.0000 | ppl 2.718\n");
}

TEST_CASE("a run that stops between intervals still reports its last iterations") {
  Capture capture;
  {
    StatusLine line(capture.stream(), {.log_interval = 100, .total_iterations = 1000});
    for (int64_t i = 1; i <= 3; ++i) line.write(step(i));
    CHECK(split(capture.text(), '\n').size() == 2);
  }
  CHECK_THAT(capture.text(), Catch::Matchers::ContainsSubstring("step 3/1000 | loss 7.5000"));
}

TEST_CASE("the terminal shows each step in place and never wraps") {
  Capture capture;
  StatusLine line(capture.stream(), {.log_interval = 100, .total_iterations = 1000, .terminal = true, .columns = 30});
  line.write(step(1));
  line.write(step(2));
  line.write(step(3));  // within the refresh interval: nothing new
  const std::string head =
      "step 1/1000 | loss 9.0000 | norm 0.500 | lr 1.00e-03 | 2.0 s | 1.50 ktok/s | data 1.0 % | "
      "eta 33m18s\n";
  CHECK(capture.text() == head + "\r\x1b[Kstep 2/1000 | loss 8.0000 | n");
  line.message("saved");
  CHECK(capture.text() == head + "\r\x1b[Kstep 2/1000 | loss 8.0000 | n\r\x1b[Ksaved\n");
}

TEST_CASE("the estimate forgets the slow first step and follows the pace") {
  StepAverager averager(100);
  StepMetrics m = step(1);
  m.step_seconds = 100;
  averager.add(m);
  CHECK(*averager.summary().eta_seconds == Approx(9900));
  for (int64_t i = 2; i <= 10; ++i) averager.add(step(i));
  CHECK(*averager.summary().eta_seconds == Approx(180));
  averager.reset();
  for (int64_t i = 11; i <= 99; ++i) {
    m = step(i);
    m.step_seconds = 4;
    averager.add(m);
  }
  CHECK(*averager.summary().eta_seconds > 3.5);
  averager.add(step(100));
  CHECK_FALSE(averager.summary().eta_seconds.has_value());
}

}  // namespace megatron
