# Units (one a line; an empty line ends a document) to JSON rows {"text": ...} of at most characters_max characters.
# Short units of one document share a row, put together by `joiner`; a long one is cut after a sentence or a word.

function quoted(text) {
    gsub(/\\/, "&&", text)  # doubled: awks differ about backslashes in a replacement
    gsub(/"/, "\\\"", text)
    gsub(/\n/, "\\n", text)
    return "{\"text\": \"" text "\"}"
}

# Rows too short to teach anything are dropped.
function flush() {
    if (length(row) >= 40) print quoted(row)
    row = ""
}

function add(unit) {
    if (row != "" && length(row) + length(unit) + 1 > characters_max) flush()
    row = row == "" ? unit : row joiner unit
}

# Where to cut a unit that is too long: after the last sentence that fits, else at the last blank, else anywhere.
function cut_at(unit, at) {
    for (at = characters_max - 1; at > characters_max / 2; --at)
        if (substr(unit, at, 2) ~ /[.;:!?] /) return at
    for (at = characters_max - 1; at > 1; --at)
        if (substr(unit, at, 1) == " ") return at
    return characters_max
}

{
    sub(/ +$/, "")
    if ($0 == "") { flush(); next }
    unit = $0
    while (length(unit) > characters_max) {
        at = cut_at(unit)
        add(substr(unit, 1, at))
        unit = substr(unit, at + 1)
        sub(/^ +/, "", unit)
    }
    if (unit != "") add(unit)
}

END { flush() }
