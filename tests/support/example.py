"""The complete example document of the design, with an upstream for each of its calls."""

from typing import Final

EXAMPLE: Final = """\
version: 1
defaults:
  timeout: 2s                      # deadline of an endpoint that sets none
upstreams:
  flights:
    url: http://127.0.0.1:9101     # or urls: [a, b] with balance: round_robin | least_pending | random
    transport: wire
    timeout: 800ms                 # of one attempt; connect_timeout: 250ms
    concurrency: {limit: 64, queue: 128, queue_timeout: 100ms}
    retry: {attempts: 3, on: [connect, timeout, 502, 503, 504], backoff: 25ms, max_backoff: 250ms, budget: 10%}
    hedge: {after: 50ms, budget: 5%}
    breaker: {window: 10s, failure_rate: 50%, minimum_calls: 20, open_for: 5s}
    headers: {authorization: "Bearer ${FLIGHTS_TOKEN}"}
    forward_headers: [accept-language, traceparent]
    max_response: 10MiB
  airlines: {url: http://127.0.0.1:9102, hedge: {after: p95}}
  weather: {urls: [http://127.0.0.1:9103, "https://[::1]:9104/base"], tls: {min_version: 1.3}}
endpoints:
  - path: /flights/{flight_id}/briefing
    method: GET
    summary: Everything about one flight
    timeout: 1500ms
    parameters:
      flight_id: {in: path, schema: {type: integer, minimum: 1}}
      units: {in: query, schema: {type: string, enum: [metric, imperial]}, default: metric}
    steps:
      flight:  {upstream: flights, path: "/flights/{path.flight_id}", required: true}
      airline: {upstream: airlines, path: "/airlines/{flight.carrier}", pick: [name], default: {name: unknown}}
      weather: {upstream: weather, path: /weather, query: {origin: "{flight.origin}", at: "{flight.time_hour}"}, timeout: 300ms}
      past:    {upstream: flights, path: /flights, query: {carrier: "{flight.carrier}", dest: "{flight.dest}"}, hidden: true}
      delays:  {compute: "demo.hooks:delay_summary", input: {flights: "{past.flights}"}, executor: process, timeout: 1s}
    response:
      merge: group
"""
