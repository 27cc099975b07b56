-- What wrk sends: the bodies of a file, a line each, in turn over all connections; and what it says
-- at the end, as JSON. The first argument is the file; LAKEBED_BENCH_KEY is the key.
local bodies, at = {}, 0

function init(args)
  local headers = { ["content-type"] = "application/json", ["x-api-key"] = os.getenv("LAKEBED_BENCH_KEY") }
  for body in io.lines(args[1]) do
    bodies[#bodies + 1] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  at = at % #bodies + 1
  return bodies[at]
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
