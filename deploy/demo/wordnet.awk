# WordNet's data files to units "word, other word: definition; an example". Format: wndb(5WN).
# offset, file number, type, number of words (hexadecimal), then a word and its sense number for each, ... | gloss

function hexadecimal(text) {
    return (index("0123456789abcdef", substr(text, 1, 1)) - 1) * 16 + index("0123456789abcdef", substr(text, 2, 1)) - 1
}

/^  / { next }  # the licence at the head of each file
kind == "noun" && ++nouns % 6 != 0 { next }
{
    words = ""
    count = hexadecimal($4)
    for (i = 0; i < count && i < 3; ++i) {
        word = $(5 + 2 * i)
        gsub(/_/, " ", word)
        sub(/\([a-z]+\)$/, "", word)
        words = words (i ? ", " : "") word
    }
    gloss = substr($0, index($0, " | ") + 3)
    sub(/ +$/, "", gloss)
    print words ": " gloss
    if (++printed % 6 == 0) print ""  # neighbours in the file are neighbours in meaning: a few share a row
}
