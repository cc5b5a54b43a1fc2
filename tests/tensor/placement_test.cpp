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

TEST_CASE("flat blocks of all ranks tile a row, aligned") {
  for (int64_t count : {0, 1, 7, 8, 9, 63, 64, 65, 1000}) {
    for (int64_t parts : {1, 2, 3, 4, 7}) {
      int64_t next = 0;
      for (int64_t part = 0; part < parts; ++part) {
        const Block block = flat_block(count, parts, part);
        CHECK(block.begin == next);
        if (block.size > 0) CHECK(block.begin % kFlatUnit == 0);
        next += block.size;
      }
      CHECK(next == count);
    }
  }
}

TEST_CASE("a flat axis cuts what other axes leave") {
  const Mesh mesh{{{"tp", 2, 1}, {"dp", 4, 1}}};
  const Placement placement = {AxisPlacement::S(0), AxisPlacement::F()};
  CHECK(local_box({10, 8}, placement, mesh).extent == Dims{5, 8});  // 40 elements: 16, 16, 8, 0
  CHECK(flat_range({10, 8}, placement, mesh).begin == 16);
  CHECK(local_shape({10, 8}, placement, mesh) == Dims{16});
  CHECK(local_shape({10, 8}, {AxisPlacement::S(0), AxisPlacement::R()}, mesh) == Dims{5, 8});
  CHECK(to_string(placement, mesh) == "tp:S(0) dp:F");
}

TEST_CASE("boxes of a range hold its elements in their order") {
  for (const Dims& extent : {Dims{7}, Dims{3, 5}, Dims{2, 3, 4}, Dims{1, 4, 1, 3}, Dims{}}) {
    LocalBox box{extent, extent};
    for (int d = 0; d < extent.rank(); ++d) box.origin[d] = 10 * d;
    const int64_t total = extent.numel();
    for (int64_t begin = 0; begin <= total; ++begin) {
      for (int64_t end = begin; end <= total; ++end) {
        int64_t next = begin;
        const std::vector<LocalBox> boxes = boxes_of(box, {begin, end - begin});
        CHECK(boxes.size() <= static_cast<size_t>(std::max(1, 2 * extent.rank() - 1)));
        for (const LocalBox& piece : boxes) {
          for (int64_t i = 0; i < piece.extent.numel(); ++i) {
            int64_t rest = i, index = 0, stride = 1;
            for (int d = extent.rank() - 1; d >= 0; --d) {
              index += (piece.origin[d] - box.origin[d] + rest % piece.extent[d]) * stride;
              rest /= piece.extent[d];
              stride *= extent[d];
            }
            CHECK(index == next++);
          }
        }
        CHECK(next == end);
      }
    }
  }
}

TEST_CASE("meshes and placements as text") {
  const Mesh mesh{{{"tp", 2, 1}, {"cp", 3, 0}, {"dp", 4, 0}}};
  CHECK(mesh.find("cp") == 1);
  CHECK(mesh.find("pp") == -1);
  CHECK(mesh.world_size() == 24);
  CHECK(to_string(Placement(3), mesh) == "R");
  CHECK(to_string({AxisPlacement::S(2), AxisPlacement::R(), AxisPlacement::P()}, mesh) == "tp:S(2) dp:P");
}
