# Turns the dictionary file of GCIDE (format of the dict protocol: an entry starts in column 0, its body is indented)
# into plain English: one entry a line, without pronunciations, etymologies, source tags and mark-up.
#   gzip -dc gcide.dict.dz | LC_ALL=C awk -f gcide_to_text.awk > gcide.txt

function flush_entry(    before) {
  # Transcribed letters stand in square brackets: [=e] [a^] ['e] [,c] [aum] [ae]. Keep the letter.
  gsub(/\[root\]|\[add\]|\[deg\]|\[sect\]/, "", entry)
  while (match(entry, /\[[^][A-Za-z0-9 .]*[A-Za-z][a-z]?[^][A-Za-z0-9 .]*\]|\[[aou]um\]|\[[aeiou]mac\]/)) {
    letter = substr(entry, RSTART + 1, RLENGTH - 2)
    gsub(/[^A-Za-z]|um$|mac$/, "", letter)
    entry = substr(entry, 1, RSTART - 1) letter substr(entry, RSTART + RLENGTH)
  }
  # What is left in square brackets is etymology, usage labels and sources; inner brackets go first.
  do {
    before = length(entry)
    gsub(/\[[^][]*\]/, "", entry)
  } while (length(entry) != before)
  gsub(/ *\\[^\\]*\\( *\([^()]*\))?/, "", entry)  # \Her"e*sy\ (h[e^]r"[e^]*s[y^])
  gsub(/[{}|]|[^ -~]/, "", entry)  # the file mixes encodings; what is not ASCII is rare
  gsub(/ +/, " ", entry)
  gsub(/ ,/, ",", entry)
  gsub(/ \./, ".", entry)
  gsub(/^ | $/, "", entry)
  if (length(entry) >= 40) print entry
  entry = ""
}

/^[^ ].*\\/ {
  flush_entry()
  inside = 1
}

# What comes before the first entry and after an unindented line without a pronunciation is not dictionary text.
/^[^ ]/ && !/\\/ { inside = 0 }

inside {
  gsub(/\t/, " ")
  entry = entry " " $0
}

END { flush_entry() }
