#include "tensor/placement.h"

#include <set>

#include "base/error.h"
#include "tests/catch.h"

using namespace megatron;

TEST_CASE("dimensions") {
  CHECK(Dims{}.numel() == 1);
  CHECK(Dims{3, 0, 2}.numel() == 0);
  CHECK(Dims{3, 4}.back() == 4);
  CHECK(to_string(Dims{4, 128}) == "[4, 128]");
  CHECK(to_string(Dims{}) == "[]");
  CHECK(Dims{2, 3} == Dims{2, 3});
  CHECK(Dims{2, 3} != Dims{2, 3, 1});
  CHECK(Dims{2, 3} != Dims{3, 2});
  Dims d{1, 2, 3, 4, 5, 6, 7, 8};
  CHECK(d.rank() == 8);
  CHECK_THROWS_AS(d.push_back(9), InternalError);
}

TEST_CASE("strides") {
  CHECK(contiguous_strides({2, 3, 4}) == Dims{12, 4, 1});
  CHECK(contiguous_strides({}) == Dims{});
  CHECK(is_contiguous({2, 3, 4}, {12, 4, 1}));
  CHECK(!is_contiguous({2, 3, 4}, {12, 5, 1}));
  CHECK(!is_contiguous({2, 3}, {1, 2}));
  CHECK(is_contiguous({1, 3, 1}, {77, 1, 5}));
  CHECK(!is_contiguous({2, 3, 1}, {4, 1, 1}));
  CHECK(is_contiguous({0, 3}, {9, 9}));
  CHECK(is_contiguous({}, {}));
}

TEST_CASE("tensors know their type") {
  double data[6] = {0, 1, 2, 3, 4, 5};
  const Tensor t = make_tensor(data, DType::kF64, {2, 3});
  CHECK(t.bytes() == 48);
  CHECK(t.contiguous());
  CHECK(t.as<double>()[5] == 5);
  CHECK_THROWS_AS(t.as<float>(), InternalError);
  CHECK_THROWS_AS(t.as<int32_t>(), InternalError);
  CHECK(!Tensor{});
}

TEST_CASE("blocks cover any size in order, the first ones one longer") {
  for (int64_t size : {0, 1, 2, 7, 12, 13}) {
    for (int64_t parts : {1, 2, 3, 4, 8}) {
      int64_t at = 0;
      for (int64_t part = 0; part < parts; ++part) {
        const Block b = block_of(size, parts, part);
        CHECK(b.begin == at);
        CHECK((b.size == size / parts || b.size == size / parts + 1));
        if (part > 0) CHECK(b.size <= block_of(size, parts, part - 1).size);
        at += b.size;
      }
      CHECK(at == size);
    }
  }
}

TEST_CASE("local boxes of all ranks tile the value, later axes outside") {
  const auto S = AxisPlacement::S;
  for (int64_t rows : {24, 13, 5, 3}) {
    std::set<std::pair<int64_t, int64_t>> seen;
    int64_t previous_end = 0;
    for (int dp = 0; dp < 2; ++dp) {
      for (int cp = 0; cp < 3; ++cp) {
        for (int tp = 0; tp < 2; ++tp) {  // rank order within dimension 0: dp slowest, tp fastest
          const Mesh mesh{{{"tp", 2, tp}, {"cp", 3, cp}, {"dp", 2, dp}}};
          const LocalBox box = local_box({rows, 7}, {S(0), S(0), S(0)}, mesh);
          CHECK(box.origin[0] == previous_end);
          CHECK(box.extent[1] == 7);
          previous_end += box.extent[0];
        }
      }
    }
    CHECK(previous_end == rows);
  }
  const Mesh mesh{{{"tp", 2, 1}, {"dp", 2, 0}}};
  const LocalBox nested = local_box({7, 5}, {S(0), S(0)}, mesh);  // dp takes 4 of 7, tp the second half of them
  CHECK(nested.origin == Dims{2, 0});
  CHECK(nested.extent == Dims{2, 5});
  const LocalBox both = local_box({7, 5}, {S(1), S(0)}, mesh);
  CHECK(both.origin == Dims{0, 3});
  CHECK(both.extent == Dims{4, 2});
  const LocalBox partial = local_box({7, 5}, {AxisPlacement::P(), AxisPlacement::R()}, mesh);
  CHECK(partial.extent == Dims{7, 5});
}

TEST_CASE("meshes and placements as text") {
  const Mesh mesh{{{"tp", 2, 1}, {"cp", 3, 0}, {"dp", 4, 0}}};
  CHECK(mesh.find("cp") == 1);
  CHECK(mesh.find("pp") == -1);
  CHECK(mesh.world_size() == 24);
  CHECK(to_string(Placement(3), mesh) == "R");
  CHECK(to_string({AxisPlacement::S(2), AxisPlacement::R(), AxisPlacement::P()}, mesh) == "tp:S(2) dp:P");
}
