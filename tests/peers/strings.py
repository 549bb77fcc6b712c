"""Random Unicode strings that tokenizers disagree about, if about anything."""
import unicodedata

WORDS = ("the a of and Hello world I'm you'll WE'VE it's IT'S don't DON'T he'd they're o'clock naïve façade Straße "
         "İstanbul ſet K Å ﬁne ½ Ⅷ x²  résumé e\u0301 n\u0303o Å Ω").split(" ")
CODE = ["for(int i=0;i<n;++i){\n", "\tif x == None:\n\t\treturn\n", "a->b", "#include <x>\r\n", "://", "foo_bar", "$HOME/",
        "</div>", "/* */", "\\n", "0x1F", "...", "!!!", "--", "'''", '"""', "a\n\n\nb", "  \n  ", "{{ }}", "<s>x</s>"]
EMOJI = ["🦙", "👩\u200d👩\u200d👧\u200d👦", "🏳️\u200d🌈", "🇩🇪🇫🇷", "❤\ufe0f", "👍🏽", "1\ufe0f\u20e3", "☃", "\u200d", "\ufe0f"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", "\u00a0", "\u1680", "\u2000", "\u2003", "\u200a", "\u2028",
          "\u2029", "\u202f", "\u205f", "\u3000", "\u0085", "\x0b", "\x0c", "\x1c", "\x1f", "\u180e", "\u200b", "\ufeff",
          "▁", "▁▁", " ▁"]
CONTROLS = [chr(c) for c in (0, 1, 2, 7, 8, 0x1B, 0x7F, 0x80, 0x9F, 0xAD, 0x200E, 0x200F, 0x202B, 0x2066, 0xFFFD, 0xFFFE,
                             0xFFFF, 0xE000, 0xF8FF, 0xE0001, 0xE0061, 0x10FFFF, 0x10FFFE, 0x378, 0x2FE0)]
BLOCKS = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80), (0xF00, 0x1100),
          (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2500), (0x3040, 0x3100), (0x3400, 0x3500), (0x4E00, 0x9FFF),
          (0xA640, 0xAB70), (0xAC00, 0xD7A4), (0xD7B0, 0xD800), (0xF900, 0xFB50), (0xFB50, 0x10000), (0x10000, 0x11000),
          (0x11000, 0x12000), (0x16A00, 0x17000), (0x1B000, 0x1B300), (0x1D100, 0x1D800), (0x1E000, 0x1F000),
          (0x1F000, 0x1FB00), (0x20000, 0x20100), (0x2F800, 0x2FA20), (0x30000, 0x30100)]
NUMBERS = [chr(c) for c in range(0x30000) if unicodedata.category(chr(c))[0] == "N"]
MARKS = [chr(c) for c in range(0x20000) if unicodedata.combining(chr(c))]
COMPOSED = [chr(c) for c in range(0x30000) if unicodedata.decomposition(chr(c))]


def piece(generator, special):
    kind = generator.randrange(14)
    if kind < 3:
        return generator.choice(WORDS)
    if kind == 3:
        return generator.choice(CODE)
    if kind == 4:
        return str(generator.randrange(10 ** generator.randrange(1, 12)))
    if kind == 5:
        return generator.choice(EMOJI)
    if kind < 8:
        return generator.choice(SPACES)
    if kind == 8:
        return generator.choice(CONTROLS)
    if kind == 9:
        return generator.choice(special) if special else "<|"
    if kind == 10:
        low, high = generator.choice(BLOCKS)
        return "".join(chr(generator.randrange(low, high)) for _ in range(generator.randrange(1, 6)))
    if kind == 11:
        return generator.choice(COMPOSED) + "".join(generator.choice(MARKS) for _ in range(generator.randrange(5)))
    if kind == 12:
        return "".join(generator.choice(NUMBERS) for _ in range(generator.randrange(1, 5)))
    return chr(generator.choice([generator.randrange(0xD800), generator.randrange(0xE000, 0x110000)]))


def strings(count, generator, special):
    """`special`: contents of added tokens, sprinkled in whole, and in parts."""
    for _ in range(count):
        pieces = []
        for _ in range(generator.randrange(1, 12)):
            text = piece(generator, special)
            pieces.append(text[:-1] if generator.random() < 0.02 else text)
            if generator.random() < 0.4:
                pieces.append(" ")
        yield "".join(pieces)


def every_code_point(at_once):
    """Between letters, digits, punctuation and spaces, in planes where anything is assigned."""
    points = [c for c in (*range(0x33480), *range(0xE0000, 0xE0200)) if not 0xD800 <= c < 0xE000]
    for begin in range(0, len(points), at_once):
        yield "".join(f"a{chr(c)}b 1{chr(c)}2 .{chr(c)}! " for c in points[begin:begin + at_once])
