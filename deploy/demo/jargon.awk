# The Jargon File as dictd stores it, to units: "head word: definition", an empty line after each entry.
# An entry is a head word in the first column, a line with pronunciation and class, then indented paragraphs.

function flush() {
    gsub(/[{}]/, "", entry)
    gsub(/ +/, " ", entry)
    if (entry != "" && head !~ /^00-database/) printf "%s: %s\n\n", head, entry
    entry = ""
}

/^[^ ]/ { flush(); head = $0; next }
/^ [^ ]/ { next }  # pronunciation and class
/^    / { sub(/^ +/, ""); entry = entry == "" ? $0 : entry " " $0 }
END { flush() }
