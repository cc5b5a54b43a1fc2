#include "config/tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <map>
#include <optional>
#include <sstream>
#include <utility>

#include "base/strings.h"
#include "config/scalar.h"

namespace megatron {
namespace {

constexpr size_t kMaxNodes = 100000;  // aliases of aliases can stand for more nodes than memory holds

/// Builds a Tree from the events of one document. (YAML::Node would lose duplicate keys and where they stand.)
class Builder : public YAML::EventHandler {
 public:
  Builder(const std::string& text, int source, Diagnostics& diagnostics, int column)
      : lines_(split(text, '\n')), source_(source), diagnostics_(diagnostics), column_(column) {}

  /// The document, once the parser has sent it.
  const std::optional<Tree>& root() const { return root_; }

  /// yaml-cpp counts lines and bytes from zero; people count lines and characters from one.
  Place place(const YAML::Mark& mark) const {
    if (mark.is_null()) return {};
    int column = mark.column;
    if (const auto line = static_cast<size_t>(mark.line); line < lines_.size()) {
      const std::string_view before = std::string_view(lines_[line]).substr(0, static_cast<size_t>(mark.column));
      for (const char c : before) column -= (static_cast<unsigned char>(c) & 0xC0) == 0x80 ? 1 : 0;
    }
    return {source_, mark.line + 1, column + 1 + (mark.line == 0 ? column_ : 0)};
  }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnAnchor(const YAML::Mark&, const std::string&) override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Tree tree;
    tree.place = place(mark);
    finish(std::move(tree), anchor);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag);
    Tree tree;
    tree.place = place(mark);
    tree.text = value;
    tree.quoted = tag == "!";
    finish(std::move(tree), anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    Tree tree;
    tree.place = place(mark);
    if (found == anchors_.end()) {
      diagnostics_.add(tree.place, "", "an anchor that contains itself");
    } else {
      nodes_ += found->second.second;
      if (nodes_ > kMaxNodes) throw YAML::ParserException(mark, "aliases stand for too many values");
      tree = found->second.first;
    }
    finish(std::move(tree), 0);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Tree::Kind::kList);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Tree::Kind::kMap);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    Tree tree;
    YAML::anchor_t anchor = 0;
    size_t first_node = 0;
    std::optional<Tree> key;  ///< of a map whose value comes next
  };

  void check_tag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    diagnostics_.add(place(mark), "", str_cat("tags such as ", tag, " are not used here; write the value alone"));
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, Tree::Kind kind) {
    check_tag(mark, tag);
    Frame frame;
    frame.tree.kind = kind;
    frame.tree.place = place(mark);
    frame.anchor = anchor;
    frame.first_node = nodes_;
    open_.push_back(std::move(frame));
  }

  void close() {
    Frame frame = std::move(open_.back());
    open_.pop_back();
    if (frame.anchor != 0) anchors_[frame.anchor] = {frame.tree, nodes_ - frame.first_node + 1};
    finish(std::move(frame.tree), 0);
  }

  /// Hands a complete value to what contains it.
  void finish(Tree tree, YAML::anchor_t anchor) {
    ++nodes_;
    if (anchor != 0) anchors_[anchor] = {tree, 1};
    if (open_.empty()) {
      root_ = std::move(tree);
    } else if (Frame& top = open_.back(); top.tree.kind == Tree::Kind::kList) {
      top.tree.items.push_back(std::move(tree));
    } else if (!top.key) {
      top.key = std::move(tree);
    } else {
      add_entry(top.tree, *std::exchange(top.key, std::nullopt), std::move(tree));
    }
  }

  void add_entry(Tree& map, const Tree& key, Tree value) {
    if (key.kind != Tree::Kind::kScalar) return diagnostics_.add(key.place, "", "a key must be a word");
    if (key.text == "<<" && !key.quoted) {
      return diagnostics_.add(key.place, "",
                              "merge keys (<<) are not part of YAML 1.2; use `extends: FILE` for shared settings");
    }
    for (const Tree::Entry& entry : map.entries) {
      if (entry.key != key.text) continue;
      return diagnostics_.add(
          key.place, "",
          str_cat("duplicate key '", key.text, "' (first in line ", entry.place.line, "); keep one of the two"));
    }
    map.entries.push_back({key.text, key.place, std::move(value)});
  }

  std::vector<std::string> lines_;
  int source_;
  Diagnostics& diagnostics_;
  int column_;
  std::vector<Frame> open_;
  std::map<YAML::anchor_t, std::pair<Tree, size_t>> anchors_;  ///< with the number of nodes each stands for
  size_t nodes_ = 0;
  std::optional<Tree> root_;
};

/// The first document; a second one is an error. Never asks for a third: yaml-cpp can send empty ones for ever.
std::optional<Tree> parse_document(const std::string& text, Builder& builder, Diagnostics& diagnostics) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  parser.HandleNextDocument(builder);
  std::optional<Tree> root = builder.root();
  if (parser.HandleNextDocument(builder)) {
    diagnostics.add(builder.root() ? builder.root()->place : Place{}, "",
                    "a second document begins here; put each configuration in its own file");
  }
  return root;
}

}  // namespace

bool Tree::is_null() const {
  return kind == Kind::kScalar && !quoted && classify_plain(text) == PlainKind::kNull;
}

std::optional<Tree> parse_tree(const std::string& text, int source, Diagnostics& diagnostics, bool is_value,
                               int column) {
  Builder builder(text, source, diagnostics, column);
  Tree empty;
  empty.kind = is_value ? Tree::Kind::kScalar : Tree::Kind::kMap;
  empty.place = {source, 1, 1 + column};
  try {
    std::optional<Tree> tree = parse_document(text, builder, diagnostics);
    if (!tree) return empty;
    if (is_value) return tree;
    if (tree->is_null()) return empty;
    if (tree->kind == Tree::Kind::kMap) return tree;
    diagnostics.add(tree->place, "", "expected sections such as `model:` with keys below them");
  } catch (const YAML::Exception& error) {
    const Place at = builder.place(error.mark);
    diagnostics.add(at.known() ? at : empty.place, "", "not valid YAML: " + error.msg);
  }
  return std::nullopt;
}

}  // namespace megatron
