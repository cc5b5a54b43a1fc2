#include "device/device.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "base/error.h"
#include "tests/catch.h"

using namespace megatron;

TEST_CASE("a device counts what its buffers hold, and the most they held") {
  const auto device = make_cpu_device();
  CHECK(device->kind() == DeviceKind::kCpu);
  {
    Buffer a(*device, 1000);
    CHECK(device->allocated_bytes() == 1000);
    CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % Device::kAlignment == 0);
    {
      Buffer b(*device, 24);
      CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % Device::kAlignment == 0);
      CHECK(device->allocated_bytes() == 1024);
    }
    CHECK(device->allocated_bytes() == 1000);
  }
  CHECK(device->allocated_bytes() == 0);
  CHECK(device->peak_allocated_bytes() == 1024);
}

TEST_CASE("buffers move and are freed once") {
  const auto device = make_cpu_device();
  Buffer a(*device, 64);
  std::byte* data = a.data();
  Buffer b(std::move(a));
  CHECK(b.data() == data);
  CHECK(b.bytes() == 64);
  Buffer c(*device, 32);
  c = std::move(b);
  CHECK(c.data() == data);
  CHECK(device->allocated_bytes() == 64);
  std::vector<Buffer> many;
  for (int i = 0; i < 20; ++i) many.emplace_back(*device, 16);
  CHECK(device->allocated_bytes() == 64 + 320);
  many.clear();
  c = Buffer{};
  CHECK(device->allocated_bytes() == 0);
}

TEST_CASE("copies, zeros, empty and impossible buffers") {
  const auto device = make_cpu_device();
  Buffer a(*device, 16);
  const char text[16] = "fifteen letters";
  char back[16] = {};
  device->copy_to_device(a.data(), text, 16);
  device->copy_to_host(back, a.data(), 16);
  CHECK(std::string(back) == text);
  device->fill_zero(a.data(), 8);
  CHECK(a.data()[7] == std::byte{0});
  CHECK(a.data()[8] != std::byte{0});
  Buffer empty(*device, 0);
  CHECK(empty.data() == nullptr);
  CHECK(device->allocated_bytes() == 16);
  CHECK_THROWS_AS(Buffer(*device, -1), InternalError);
  CHECK_THROWS_AS(Buffer(*device, int64_t{1} << 60), DeviceError);
  CHECK(device->allocated_bytes() == 16);
}

TEST_CASE(
    "host buffers don't count as device memory; enqueued copies, events and streams on the CPU are done at once") {
  const auto device = make_cpu_device();
  Buffer host(*device, 64, Buffer::Place::kHost), memory(*device, 64);
  CHECK(device->allocated_bytes() == 64);
  CHECK(device->peak_allocated_bytes() == 64);
  CHECK_FALSE(device->asynchronous());
  for (int i = 0; i < 64; ++i) host.data()[i] = static_cast<std::byte>(i);
  device->enqueue_to_device(memory.data(), host.data(), 64);
  CHECK(memory.data()[63] == std::byte{63});
  memory.data()[0] = std::byte{7};
  device->enqueue_to_host(host.data(), memory.data(), 64);
  CHECK(host.data()[0] == std::byte{7});
  const auto begin = device->make_event(true), end = device->make_event(true);
  device->record(*begin);
  device->record(*end, 1);
  device->wait(*begin, 1);
  end->synchronize();
  CHECK(end->seconds_since(*begin) >= 0);
  bool called = false;
  CHECK(device->capture([&] { called = true; }) == nullptr);
  CHECK_FALSE(called);
  Buffer moved = std::move(host);
  CHECK(moved.data()[0] == std::byte{7});
  moved = Buffer{};
  CHECK(device->allocated_bytes() == 64);
}
