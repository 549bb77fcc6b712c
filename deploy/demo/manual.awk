# The running text of a manual page (man(7) macros), one paragraph a line; tables, code and headings are left out.

function flush() {
    gsub(/ +/, " ", paragraph)
    if (length(paragraph) > 60) print paragraph
    paragraph = ""
}

function without_escapes(text) {
    gsub(/\\f[BIRP]|\\f\([A-Z]+|\\[&|^c%\/]|\\s[-+]?[0-9]/, "", text)
    gsub(/\\-/, "-", text)
    gsub(/\\e/, "\\", text)
    gsub(/\\\(aq|\\\(cq|\\\(oq/, "'", text)
    gsub(/\\\(lq|\\\(rq|\\\(dq/, "\"", text)
    gsub(/\\\(em/, " - ", text)
    gsub(/\\\(bu|\\\(..|\\\*\(..|\\\[[^]]*\]|\\\*\[[^]]*\]/, "", text)
    gsub(/\\ |\\~/, " ", text)
    gsub(/"/, "", text)
    return text
}

function append(text) { paragraph = paragraph == "" ? text : paragraph " " text }

/^\.(EX|nf|TS)/ { flush(); skipping = 1; next }
/^\.(EE|fi|TE)/ { skipping = 0; next }
skipping || /^[.']\\"/ || /^\.\\/ { next }
/^\.(SH|SS|PP|P|LP|TP|IP|HP|RS|RE|TQ)( |$)/ { flush(); next }
/^\.(B|I|R) / { sub(/^\.[A-Z]+ +/, ""); append(without_escapes($0)); next }
/^\.(BR|BI|RB|RI|IR|IB) / {  # alternating fonts: the words stand together
    line = without_escapes(substr($0, 5))
    gsub(/ /, "", line)
    append(line)
    next
}
/^[.']/ { next }
{ append(without_escapes($0)) }
END { flush(); print "" }
