-- wrk script of benchmarks/serving/load.py: posts the prepared bodies of a file in turn.
--   wrk ... -s load.lua <url> -- <file>
-- Before each body stands "<length> <length of its JSON head, or 0 if all of it is JSON>".
local requests, position = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local length, head = file:read("*n", "*n")
    if not length then break end
    file:read(1)
    local headers = { ["Content-Type"] = "application/json" }
    if head > 0 then
      headers["Content-Type"] = "application/octet-stream"
      headers["Inference-Header-Content-Length"] = tostring(head)
    end
    requests[#requests + 1] = wrk.format("POST", nil, headers, file:read(length))
  end
  file:close()
end

function request()
  position = position % #requests + 1
  return requests[position]
end

-- Times are microseconds.
function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '\n{"p50_ms": %.4f, "p99_ms": %.4f, "requests": %d, "seconds": %.4f, "errors": %d}\n',
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.requests, summary.duration / 1e6,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
