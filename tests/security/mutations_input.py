"""The controls of input, transport and what stands behind, each switched off."""

from __future__ import annotations

from tests.security.mutation import Mutation

_HEAD, _STRICT, _SCAN = "gateway/rest/head.py", "gateway/rest/strict.py", "gateway/codecs/scan.py"
_BOUNDS, _COMPRESSION, _TLS = "gateway/layers/bounds.py", "gateway/rest/compression.py", "gateway/tls.py"
_LIMITS, _WIRE, _SPENT = "gateway/codecs/limits.py", "gateway/codecs/wire.py", "test_spent.py"
_SOCKETS, _BOMBS, _BEHIND = "test_sockets.py", "test_bombs.py", "test_servers_behind.py"

_PARTS = "gateway/codecs/multipart.py"
_FUZZED, _FINDS = "test_fuzzing.py", "../gateway/codecs/test_fuzzers_finds.py"

INPUT: tuple[Mutation, ...] = (
    Mutation("deciding headers come once", _HEAD, "count > 1 and name in _SINGLE", "False", _SOCKETS, "doubtful"),
    Mutation("one coding is taken", _HEAD, 'coding.lower() != b"chunked"', "False", _SOCKETS, "doubtful"),
    Mutation("the host is a host", _HEAD, "not _HOST.fullmatch(host)", "False", _SOCKETS, "doubtful"),
    Mutation("there is a host", _HEAD, 'if version == "1.1":', "if False:", _SOCKETS, "doubtful"),
    Mutation("names have no underscores", _HEAD, 'if b"_" in name:', "if False:", _SOCKETS, "doubtful"),
    Mutation("other servers' addresses", _HEAD, "authority.lower() != host.lower()", "False", _SOCKETS, "doubtful"),
    Mutation("expectations", _HEAD, '.lower() != b"100-continue"', '.lower() == b""', _SOCKETS, "doubtful"),
    Mutation("old versions", _HEAD, 'version not in ("1.1", "1.0")', "False", _SOCKETS, "doubtful"),
    Mutation("encoded slashes", _HEAD, "_DOUBTFUL_ESCAPE.search(path)", "False", "test_names.py", "over_rest"),
    Mutation("length of the URL", _STRICT, "len(self.url) > self.limits.url_bytes", "False", _SOCKETS, "doubtful"),
    Mutation("number of headers", _STRICT, "self._headers_count > self.limits.headers", "False", _SOCKETS, "doubtful"),
    Mutation(
        "size of headers", _STRICT, "self._headers_bytes > self.limits.header_bytes", "False", _SOCKETS, "doubtful"
    ),
    Mutation(
        "heads that never end", _STRICT, "        if self._in_head:\n", "        if False:\n", _SOCKETS, "never_ends"
    ),
    Mutation(
        "trailers",
        _STRICT,
        "        if not self._in_head:\n            return  #",
        "        if False:\n            return  #",
        _SOCKETS,
        "trailer",
    ),
    Mutation("number of chunks", _STRICT, "if self._chunks >", "if False and self._chunks >", _SOCKETS, "doubtful"),
    Mutation("depth of JSON", _SCAN, "depth + int(depths.max()) > MAX_DEPTH", "False", _BEHIND, "cve"),
    Mutation("members of objects", _SCAN, "if _TOO_MANY in objects:", "if False:", _BOMBS, "parameters"),
    Mutation("number of values", _SCAN, 'text.count(b",") >= MAX_VALUES', "False", _BOMBS, "values"),
    Mutation(
        "copies of one field", _LIMITS, "if self._copied_bytes > MAX_COPIED_BYTES:", "if False:", _SPENT, "too_many"
    ),
    Mutation("strings of a request", _LIMITS, "if self._strings > MAX_STRINGS:", "if False:", _SPENT, "too_many"),
    Mutation("rows without elements", _LIMITS, "if 0 in shape and prod(", "if False and prod(", _SPENT, "too_many"),
    Mutation("tasks, fields and parts", _LIMITS, "    if count > most:", "    if False:", _SPENT, "too_many"),
    Mutation("a look before protobuf", _WIRE, "if len(data) >= MIN_BYTES:", "if False:", _FUZZED, "few and Predict"),
    Mutation(
        "copies, fuzzed", _LIMITS, "if self._copied_bytes > MAX_COPIED_BYTES:", "if False:", _FUZZED, "few and Reg"
    ),
    Mutation("wider numbers", _LIMITS, "if wider_bytes > 2 * given_bytes", "if False and 2", _FUZZED, "few and npy"),
    Mutation("escapes of forms", "gateway/codecs/torchserve.py", 'body.count(b"%")', "0", _FUZZED, "few and form"),
    Mutation("lengths of texts", _WIRE, "elif size > MAX_TEXT_BYTES and", "elif False and", _FINDS, "no_longer"),
    Mutation(
        "messages that only name",
        _WIRE,
        "if self._max_bytes is not None and len(data) > self._max_bytes:",
        "if False:",
        _FINDS,
        "short",
    ),
    Mutation("messages inside", _WIRE, "if self._messages > MAX_MESSAGES:", "if False:", _SPENT, "too_many"),
    Mutation("booleans of a message", _WIRE, "if self._booleans > MAX_BOOLEANS:", "if False:", _FINDS, "booleans"),
    Mutation("numbers written long", _WIRE, "left -= (at - begin + 1) >> 1", "pass", _FINDS, "long_count"),
    Mutation("parameters of a part", _PARTS, "if count == _MAX_PARAMETERS:", "if False:", _FINDS, "few_parameters"),
    Mutation(
        "headers of all parts", _PARTS, "if headers_bytes > _MAX_HEADERS_BYTES:", "if False:", _FINDS, "headers_of"
    ),
    Mutation(
        "the header of a file",
        "gateway/codecs/npy.py",
        "(stream, max_header_size=_MAX_HEADER_BYTES)",
        "(stream)",
        _FINDS,
        "header_of_npy",
    ),
    Mutation("integers of a message", _WIRE, "if self._integers > MAX_INTEGERS:", "if False:", _SPENT, "too_many"),
    Mutation(
        "the model before the body, v2",
        "gateway/rest/v2.py",
        "            target = self.entry.resolve(ref)\n            decoding",
        "            decoding",
        _SPENT,
        "not_decoded",
    ),
    Mutation(
        "the model before the body, TF Serving",
        "gateway/rest/tfserving.py",
        "body if self.aside.takes(len(body) * _EXAMPLES_WEIGHT) else",
        "",
        _SPENT,
        "not_decoded",
    ),
    Mutation(
        "one space after the method",
        _STRICT,
        "if self._is_before_url() and not self._is_refused:",
        "if False:",
        _SOCKETS,
        "two_spaces",
    ),
    Mutation(
        "deadlines of centuries",
        "gateway/codecs/v2.py",
        "min(given, _MAX_TIMEOUT_MICROSECONDS)",
        "given",
        _SOCKETS,
        "centuries",
    ),
    Mutation(
        "deadlines from the arrival on",
        "gateway/rest/endpoint.py",
        "asyncio.get_running_loop().time() - (perf_counter() - seen.started)",
        "asyncio.get_running_loop().time()",
        _SOCKETS,
        "deadline_counts",
    ),
    Mutation("members given twice", "gateway/codecs/v2.py", "_is_twice(document, member):", "False:", _BOMBS, "twice"),
    Mutation("rank of tensors", _BOUNDS, "data.ndim > bounds.rank", "False", _BOMBS, "which_bound"),
    Mutation("ratio of compression", _COMPRESSION, "_MAX_RATIO = 100", "_MAX_RATIO = 100_000", _BOMBS, "ratio"),
    Mutation("members of gzip", _COMPRESSION, "self._members > _MAX_MEMBERS", "False", _BOMBS, "which_bound"),
    Mutation(
        "size of bodies", "gateway/rest/asgi.py", "        if size > max_bytes:", "        if False:", _BOMBS, "length"
    ),
    Mutation(
        "size of metadata",
        "gateway/grpc/server.py",
        "_MAX_METADATA_BYTES = 16 << 10",
        "_MAX_METADATA_BYTES = 1 << 20",
        _BOMBS,
        "metadata",
    ),
    Mutation(
        "length of errors",
        "gateway/errors.py",
        "MAX_MESSAGE = 1024",
        "MAX_MESSAGE = 1 << 30",
        "test_names.py",
        "megabytes",
    ),
    Mutation(
        "servers' own words",
        "gateway/servers/faults.py",
        "if not _INSIDE.search(text):",
        "if True:",
        _BEHIND,
        "words",
    ),
    Mutation(
        "models are not loaded through here",
        "gateway/grpc/v2.py",
        '"RepositoryIndex": unary("RepositoryIndex"',
        '"RepositoryModelLoad": unary("RepositoryModelLoad"',
        "test_matrix.py",
        "management",
    ),
    Mutation(
        "shared memory",
        "gateway/codecs/v2.py",
        'if "shared_memory_region" in parameters:',
        "if False:",
        _BEHIND,
        "shared",
    ),
    Mutation(
        "answers are taken as they are",
        "gateway/rest/browsers.py",
        '[(b"x-content-type-options", b"nosniff"), ',
        "[",
        "test_browsers.py",
    ),
    Mutation(
        "origins are listed", "gateway/rest/browsers.py", "origin not in self._origins", "False", "test_browsers.py"
    ),
    Mutation(
        "clients show certificates", _TLS, "ssl.CERT_REQUIRED", "ssl.CERT_OPTIONAL", "test_transport.py", "without"
    ),
    Mutation(
        "TLS 1.2 at least",
        _TLS,
        "ssl.TLSVersion.TLSv1_2",
        "ssl.TLSVersion.MINIMUM_SUPPORTED",
        "test_transport.py",
        "least",
    ),
    Mutation(
        "certificates are read anew", _TLS, "if found == self._stamp:", "if self._stamp:", "test_transport.py", "change"
    ),
)
