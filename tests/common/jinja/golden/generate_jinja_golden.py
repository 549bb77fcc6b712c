#!/usr/bin/env python3
"""What transformers' template environment makes of many small templates, for golden_test.cpp.

    python3 tests/common/jinja/golden/generate_jinja_golden.py

Needs transformers and jinja2. Writes cases.json beside itself: [[template, text or null where it raises], ...].
"""
import datetime
import json
import pathlib

from transformers.utils import chat_template_utils

NOW = datetime.datetime(2025, 3, 9, 14, 5, 6)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = FixedClock

VARIABLES = {
    "text": "  Some text,\twith words \n", "word": "déjà 🦙 vu", "empty": "", "zero": 0, "five": 5, "minus": -7,
    "real": 2.5, "tiny": 1e-7, "huge": 1e22, "yes": True, "no": False, "nothing": None,
    "list": [3, 1, 2], "names": ["b", "A", "c", "a"], "nested": [[1, 2], [3, [4]]], "none": [],
    "table": {"b": 1, "a": {"x": [1, None, True], "items": "mine"}, "it's": "q\"q", "é": "\u0001/\u2028\x7f"},
    "people": [{"name": "Ann", "age": 31, "role": "x"}, {"name": "bob", "age": 25}, {"name": "Cid", "age": 31, "role": "y"}],
}

EXPRESSIONS = """
1 + 2 * 3 - 4 | 5 // 2, 5 % 3, -7 // 2, -7 % 3, 7 // -2, 7 % -3 | 7 / 2, 6 / 3 | 2.0 * 3, 7.5 // 2, -7.5 % 2 | 1e3, 1.5e-9, 1_000
'a' + 'b' ~ 1 + 2 | 'a' * 3, [1] * 2 | 1 ~ 2 ~ none ~ true | five // 0 | 'a' + 1 | minus, -minus, +five
1 < 2 < 3, 1 < 3 < 2 | 1 == 1.0, true == 1, 'a' == 'a', [1] == [1], {'a': 1} == {'a': 1.0} | 'a' < 'b', [1, 2] < [1, 3]
1 < 'a' | nothing == none, undefined == undefined, undefined == none | 'a' in 'cat', 'x' not in 'cat', 1 in list, 'b' in dict
2 in none | not yes, not not yes, not zero == 1 | yes and five, no and five, no or 'x', 0 or '' | five if yes else 6, five if no
five if yes if no else 7 | (1, 2), (1,), () | [1, 'a', "it's", none, true, 1.0] | {'a': [1], 2: 'b'} | table | word, [word]
text[0], text[-1], text[99], word[1], word[5] | word[1:], word[:3], word[::-1], word[-2:], word[1:5:2], word[5:1:-1] | list[1:], list[::2]
list[5], list[-1] | table['b'], table.b, table.a.x, table['a']['items'] | table.a.items | table.missing, table['missing'] | table.missing.more
undefined | undefined.x | undefined[0] | undefined() | word.x | five.x | none.x | nested[1][1][0], nested.1.0 | text.strip(), text.lstrip(), text.rstrip()
'xxaxx'.strip('x'), 'abcba'.strip('ab'), 'aab'.lstrip('a'), 'baa'.rstrip('a') | text.split() | 'a,b,,c'.split(','), 'a,b,c'.split(',', 1) | 'a b  c'.split(None, 1)
'a,b,c'.rsplit(',', 1) | 'ab'.split('') | 'a\\nb\\r\\nc\\n'.splitlines() | 'abc'.startswith('ab'), 'abc'.endswith(('x', 'c')), 'abc'.startswith(1)
'aBc dE'.upper(), 'aBc'.lower(), "they're bill's x2y".title(), 'heLLO wORLD'.capitalize() | 'aaa'.replace('a', 'b'), 'aaa'.replace('a', 'b', 2)
'banana'.find('na'), 'banana'.rfind('na'), 'banana'.find('x'), 'banana'.count('an'), word.find('vu') | ', '.join(['a', 'b']) | ','.join([1])
'prefix-x'.removeprefix('prefix-'), 'x.py'.removesuffix('.py') | '12'.isdigit(), ''.isdigit(), ' '.isspace() | '{} {1}'.format(1, 2) | '{}-{}'.format('a', 2), '{0}{0}{n}'.format(1, n=2), '{{}}'.format()
table.keys() | list, table.values() | list, table.items() | list | table.get('b'), table.get('z'), table.get('z', 4) | list.index(1), list.count(3)
list.append(1) | table.update({}) | list.__class__ | ''.__class__.__mro__ | text.format_map(table).x
text|trim, none|trim, five|trim, undefined|trim | word|length, list|length, table|count, undefined|length, five|length
table|tojson | table|tojson(indent=2) | nested|tojson(indent=4) | [1,2]|tojson(separators=(',', ':')) | table|tojson(ensure_ascii=true) | table|tojson(sort_keys=true, indent=1) | tiny|tojson, huge|tojson, real|tojson, 1e16|tojson, 123456789.125|tojson, 1e15|tojson, 0.0001|tojson, 100.0|tojson
undefined|tojson | []|tojson(indent=2), {}|tojson(indent=2), [[]]|tojson(indent=0) | '<a href="x">&\\'</a>'|tojson | {1: 2, none: 3, true: 4, 1.5: 5}|tojson | (1, 2)|tojson
tiny, huge, real, 1e16, 123456789.125, 0.1 + 0.2, 1e15, 100.0, -0.0, 1e-4, 1e-5 | 'a'|upper, 'A'|lower, 'a-b c(d'|title, 'aBC'|capitalize
undefined|default('x'), ''|default('x'), ''|default('x', true), none|default('x'), undefined|d | undefined|default
list|first, list|last, none|first, 'abc'|first, []|last | list|reverse|list, 'abc'|reverse | list|sort, list|sort(reverse=true), names|sort, names|sort(case_sensitive=true)
people|sort(attribute='age')|map(attribute='name')|join(',') | people|map(attribute='role')|list | people|map(attribute='role', default='-')|join | names|map('upper')|join('+')
people|selectattr('role', 'defined')|map(attribute='name')|list | people|selectattr('age', 'equalto', 31)|list|length | people|rejectattr('role')|list | people|selectattr('age', 'gt', 30)|map(attribute='name')|join(', ')
[1, 2, 3, 4]|select('odd')|list, [1, 2, 3, 4]|reject('even')|list, [0, 1, '']|select|list | none|selectattr('x')|list | [1, 2, 3]|select('divisibleby', 3)|list
names|unique|list, [1, 1.0, 2]|unique|list, names|unique(case_sensitive=true)|list | table|dictsort|list | {'b': 1, 'a': 2}|dictsort(by='value'), {'b': 1, 'A': 2}|dictsort(reverse=true)
table|items|list | five|items|list | undefined|items|list | list|join('-'), [1, none, 'a']|join, people|join(', ', attribute='name'), 'abc'|join('.') | list|join(none)
'a\\nb\\n\\nc'|indent, 'a\\nb'|indent(2, true), 'a\\n\\nb'|indent(2, blank=true), 'a\\nb'|indent('> ') | 'aXbX'|replace('X', 'y'), 'aXbX'|replace('X', 'y', 1)
'12'|int, '12.7'|int, 'x'|int, 'x'|int(3), 2.9|int, none|int, ' 7 '|int, true|int | '2.5'|float, 'x'|float, 3|float | minus|abs, -2.5|abs | list|sum, people|sum(attribute='age'), []|sum
list|max, list|min, names|max, []|max | 5|string + 'a', none|string, list|string, 'x'|string | ('<b>'|safe) + '<i>', '<i>' + ('&'|safe), ('<b>'|safe) ~ '<i>'
list|list, 'abc'|list, table|list | nested|tojson|length | list|unknown_filter | list is unknown_test | yes and (list|unknown_filter)
undefined is defined, five is defined, undefined is undefined, nothing is none, undefined is none | 'a' is string, 1 is string, word is string, list is iterable, 'a' is iterable, five is iterable, undefined is iterable
list is sequence, 'a' is sequence, table is sequence, five is sequence, undefined is sequence | table is mapping, list is mapping | true is number, 1 is number, 1.0 is number, '1' is number | true is integer, 1 is integer, 1.0 is float, true is boolean, true is true, 1 is true, false is false
3 is odd, 4 is even, 9 is divisibleby 3, 9 is divisibleby(4) | 1 is equalto 1, 1 is eq(2), 1 is ne 2, 1 is lt 2, 2 is ge 2, 'a' is in 'abc' | none is sameas none, true is sameas true, 1 is sameas true
'ab' is lower, 'AB' is upper, 'aB' is lower, '1' is lower | range is callable, five is callable | five is not none, five is not string | not five is none | 3 is odd and 4 is even or false
range(3)|list, range(1, 4)|list, range(5, 0, -2)|list, range(0) | list | range(2)[1] | dict(a=1, b=[2]) | dict({'x': 1}, y=2) | strftime_now('%d %b %Y'), strftime_now('%Y-%m-%dT%H:%M:%S %j %A %a %B %w %%') | raise_exception('oh no') | namespace(a=1).a
"a\\tb\\n\\x41\\u00e9\\U0001F999\\101\\q\\'" | 'it\\'s' "joined" ' strings' | 'é\\\\n' | [1, 2,], {'a': 1,} | (1 if five) is defined, (1 if no) is defined | list[0] + list[-1] * 2 ** 1 | (five)
'%s' % 1 | names|map('replace', 'a', 'z')|list | people[0]|length | people|map('length')|list | [people[0], people[1]]|map(attribute='name')|first | [[1, 2], [3]]|map('first')|list | [[1, 2], [3]]|map(attribute=0)|list | names|map('unknown')|list
list|select('unknown')|list | 'a'|default('b')|upper ~ 'c'|upper | 'abc'[1:][0] | {'a': {'b': [10, 20]}}.a.b[1] | {'items': 3}.items | {'items': 3}['items'] | {'x': 1}.items()|list|first|first | '' is string and '' | [] or {} or 'end' | [1, [2, '3']]|string|length
""".strip()

TEMPLATES = [
    "{% for x in list %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}"
    "{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}|{{ loop.nextitem }}{{ loop.cycle('a', 'b') }};{% endfor %}",
    "{% for x in [] %}x{% else %}none{% endfor %}|{% for x in list %}{% else %}never{% endfor %}",
    "{% for k, v in table.items() %}{{ k }}={{ v }};{% endfor %}|{% for k, v in [(1, 2), [3, 4]] %}{{ k + v }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for p in people if p.age > 30 %}{{ loop.index }}/{{ loop.length }} {{ p.name }} {% endfor %}",
    "{% for x in list %}{% for y in 'ab' %}{{ loop.depth }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for c in word %}[{{ c }}]{% endfor %}{% for k in table %}({{ k }}){% endfor %}{% for x in undefined %}x{% endfor %}",
    "{% for x in five %}{% endfor %}", "{% for x in nothing %}{% endfor %}",
    "{% set x = 1 %}{% for y in list %}{% set x = x + y %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(n=0, l=[]) %}{% for y in list %}{% set ns.n = ns.n + y %}{% set ns.l = ns.l + [y] %}{% endfor %}{{ ns.n }}{{ ns.l }}",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ ns['a'] }}", "{% set five.x = 1 %}",
    "{% set a, b = 1, 'x' %}{{ a }}{{ b }}", "{% set t = 1, 2 %}{{ t }}", "{% set a, b = [1] %}",
    "{% set x %}  block {{ five }}{% endset %}[{{ x }}]", "{% set x | upper | trim %} block {% endset %}[{{ x }}]",
    "{% if five > 5 %}a{% elif five == 5 %}b{% else %}c{% endif %}{% if no %}x{% endif %}{% if list %}y{% endif %}",
    "{% if none %}a{% elif empty %}b{% elif zero %}c{% elif undefined %}d{% else %}e{% endif %}",
    "{% if yes %}{% set inner = 3 %}{% endif %}{{ inner }}",
    "{% macro m(a, b='x', c=none) %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(a=3, c=4) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro fact(n) %}{{ n if n <= 1 else n * fact(n - 1)|int }}{% endmacro %}{{ fact(5) }}",
    "{% set g = 'global' %}{% macro m() %}{{ g }}{{ x }}{% endmacro %}{% for x in [1] %}{{ m() }}{% endfor %}{% set g = 'later' %}{{ m() }}",
    "{% macro m(x, y=x) %}{{ x }}{{ y }}{% endmacro %}{{ m(1) }}", "{% macro m() %}a{{ b }}{% endmacro %}{{ m()|upper }}{{ m is callable }}",
    "{% macro forever(n) %}{{ forever(n) }}{% endmacro %}{{ forever(1) }}",
    "  {% if yes %}\n    a\n  {% endif %}\nb\n", "x {%- if yes -%}  y  {%- endif -%} z", "a\n\n  {#- c -#}\n\n b", "a {# c #} b\n  {# d #}\ne",
    "a\n  {{ five }}\n  {{- five -}}\n  b", "{% if yes +%}\n a{% endif %}\nb", "a\n  {%+ if yes %}b{% endif %}", "x\n\t{% if yes %}y{% endif %}\tz",
    "{{ '{{' }} {% raw %}{{ x }} {% if %}{% endraw %} z", "{%- raw -%}  a {{ b }} {%- endraw -%}  c", "a\n  {% raw %}\n b\n  {% endraw %}\nc",
    "a\r\nb\r{{ five }}\r\n", "{{ five }}\n\n", "\n{{ five }}\n", "{{ \"a\nb\" }}", "{{ {'a': {'b': 1}} }}", "{{ {'a': 1}['a'] }}}", "{ {% if yes %}}{% endif %} }",
    "{{ '}}' }}{{ \"%}\" }}", "a{#  {{ broken {% #}b", "{{ five", "{% if yes %}", "{% endif %}", "{% for x in %}{% endfor %}", "{{ }}", "{{ 1 + }}", "{{ 'a }}", "{# a",
    "{% unknown %}", "{% else %}", "{{ a b }}", "{{ (1 }}", "{{ [1 }}", "{{ ) }}", "{{ 1 ! 2 }}", "{% break %}", "{% set = 1 %}", "{% set 1 = 1 %}", "{{ x | }}", "{{ x is }}", "{{ f(a=1, 2) }}",
    "{% generation %}a{{ five }}{% endgeneration %}b", "{% for x in list %}{% generation %} {{ x }}{% set y = x %}{% endgeneration %}{{ y }};{% endfor %}",
    "{%- generation -%}  a  {%- endgeneration -%}  b", "{% generation %}a", "{{ people | map(attribute='name') | list | tojson }}",
    "{% set x = people | selectattr('age', 'equalto', 99) %}{% if x %}true{% else %}false{% endif %}",
    "{% set loop_messages = people[1:] %}{% for m in loop_messages %}{{ m.name }}{% if loop.nextitem is defined %}>{% endif %}{% endfor %}",
    "{{ undefined + 1 }}", "{{ undefined ~ 1 }}", "{{ 'a' in undefined }}", "{{ undefined in 'a' }}", "{{ undefined < 1 }}", "{{ -undefined }}",
    "{{ true }}{{ True }}{{ none }}{{ None }}{{ false }}", "{%set x=1%}{{x}}", "{{-five-}}", "{%-set x=1-%}{{x}}",
    "{% for i in range(3) -%}\n  {{ i }},\n{%- endfor %}", "{% for i in range(2) %}\n  {{ i }}\n{% endfor %}\nend",
]


def main():
    templates = ["{{ (%s) }}" % part.strip() for line in EXPRESSIONS.split("\n") for part in line.split(" | ")] + TEMPLATES
    cases = []
    for template in templates:
        try:
            text = chat_template_utils._compile_jinja_template(template).render(**VARIABLES)
        except Exception:  # whatever a template raises
            text = None
        cases.append([template, text])
    content = {"variables": VARIABLES, "cases": cases}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    variables = json.dumps(VARIABLES, ensure_ascii=False)
    (pathlib.Path(__file__).parent / "cases.json").write_text('{"variables":%s,\n"cases":[\n%s\n]}\n' % (variables, lines),
                                                              encoding="utf-8")


if __name__ == "__main__":
    main()
