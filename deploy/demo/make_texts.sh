#!/bin/sh
# Makes the demo's texts from what Debian and Ubuntu packages install. Nothing of theirs is kept in this repository.
#
#   make_texts.sh clients DIR   the three clients' private texts: DIR/NAME/train.jsonl and DIR/NAME/heldout.jsonl
#   make_texts.sh base FILE     the base model's corpus (FILE, and FILE.heldout), from none of the clients' sources
#
# Plain sh, awk and sed, because a minimal system has no Python; LC_ALL=C, because the result must not depend on the
# machine's language. Each row is one JSON object {"text": ...} that fits into the sequence length it is trained with.
set -eu
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
client_row_characters=420  # about 128 tokens of a text that the tokenizer has not seen
base_row_characters=900    # about 256 tokens

fail() {
    echo "make_texts.sh: $*" >&2
    exit 1
}

# need PATH PACKAGE: says which package is missing, rather than leaving an empty text.
need() {
    [ -e "$1" ] || fail "$1 is missing: install the package $2 (apt-get install $2)"
}

# plain: tabs become blanks, typographic quotes plain ones, and other bytes outside ASCII go, for a small vocabulary.
plain() {
    sed -f "$here/plain.sed" | tr '\t' ' ' | tr -cd '\12\40-\176'
}

# rows CHARACTERS JOINER: units (one a line; an empty line ends a document) to JSON rows (rows.awk), but for a few
# that do not belong on a screen.
rows() {
    awk -v characters_max="$1" -v joiner="$2" -f "$here/rows.awk" |
        grep -vwiE 'f[u*]ck(ing|ed|s)?|sh[i*]t|niggers?|rape[ds]?' || true
}

# split TRAIN HELDOUT: every tenth row is held out, never trained on.
split() {
    awk -v train="$1" -v heldout="$2" '{ print > (NR % 10 == 0 ? heldout : train) }'
}

# One verse a line; chapters are the documents.
scripture() {
    bible_program=$(command -v bible || echo /usr/bin/bible)
    need "$bible_program" bible-kjv
    for passage in gen1:1-gen50:26 joh1:1-joh21:25; do
        "$bible_program" -f "$passage" </dev/null
    done | awk '{ if ($1 ~ /:1$/) print ""; sub(/^[^ ]+ +/, ""); print }' | plain
}

# One paragraph a line; each licence is a document. Versions that repeat another nearly word for word are left out.
law() {
    need /usr/share/common-licenses/GPL-3 base-files
    for name in Apache-2.0 Artistic CC0-1.0 GFDL-1.3 GPL-2 GPL-3 LGPL-2.1 LGPL-3 MPL-1.1 MPL-2.0; do
        file=/usr/share/common-licenses/$name
        [ -f "$file" ] || continue
        plain <"$file" | awk 'BEGIN { RS = "" } { gsub(/[ \n]+/, " "); sub(/^ /, ""); print } END { print "" }'
    done
}

# "head word: definition"; each entry is a document.
jargon() {
    file=/usr/share/dictd/jargon.dict.dz
    need "$file" dict-jargon
    gzip -dc <"$file" | plain | awk -f "$here/jargon.awk" | head -c 280000
}

clients() {
    for name in library lawoffice helpdesk; do mkdir -p "$1/$name"; done
    scripture | rows $client_row_characters ' ' | split "$1/library/train.jsonl" "$1/library/heldout.jsonl"
    law | rows $client_row_characters ' ' | split "$1/lawoffice/train.jsonl" "$1/lawoffice/heldout.jsonl"
    jargon | rows $client_row_characters ' ' | split "$1/helpdesk/train.jsonl" "$1/helpdesk/heldout.jsonl"
    wc -lc "$1"/*/*.jsonl
}

# Each fortune is a document; its lines matter (verse, dialogue). Collections that are jokes on groups of people,
# or not sentences, are left out.
fortunes() {
    need /usr/share/games/fortunes/science fortunes
    need /usr/share/games/fortunes/literature fortunes-min
    for name in art computers cookie debian definitions education food fortunes goedel humorists kids law \
        linux literature love magic medicine miscellaneous news paradoxum people perl pets platitudes riddles \
        science songs-poems sports startrek tao translate-me wisdom work; do
        file=/usr/share/games/fortunes/$name
        [ -f "$file" ] || continue
        sed -e 's/^%$//; s/^[ \t]*//' <"$file" | plain
        echo
    done
}

# "word, other word: definition; an example": every verb, adjective and adverb, and every sixth noun.
wordnet() {
    need /usr/share/wordnet/data.noun wordnet-base
    for kind in verb adj adv noun; do
        plain <"/usr/share/wordnet/data.$kind" | awk -v kind=$kind -f "$here/wordnet.awk"
    done
}

# The running text of the manual's chapters on calls, devices, files and ideas.
manual() {
    need /usr/share/man/man7/capabilities.7.gz manpages
    need /usr/share/man/man2/open.2.gz manpages-dev
    dpkg -L manpages manpages-dev | grep "/man[2457]/.*[.]gz$" | sort | while read -r file; do
        [ -L "$file" ] || gzip -dc <"$file" | plain | awk -f "$here/manual.awk"
    done
}

base() {
    {
        fortunes | rows $base_row_characters '\n'
        wordnet | rows $base_row_characters '\n'
        manual | rows $base_row_characters '\n'
    } | awk -v train="$1" -v heldout="$1.heldout" '{ print > (NR % 100 == 0 ? heldout : train) }'
    wc -lc "$1" "$1.heldout"
}

case "${1-}" in
    clients | base) [ $# -eq 2 ] || fail "usage: make_texts.sh clients DIR | base FILE" ;;
    *) fail "usage: make_texts.sh clients DIR | base FILE" ;;
esac
"$1" "$2"
