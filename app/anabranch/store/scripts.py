"""What runs inside the server, as one decision."""

from hashlib import sha1
from typing import Final


class Script:
    """A Lua script. `digest`: its name in EVALSHA."""

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.digest: Final = sha1(text.encode(), usedforsecurity=False).hexdigest()


TAKE: Final = Script("""
local cost, now = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local reply, values, kept, allowed = {string.format('%.17g', now)}, {}, {}, true
for i, key in ipairs(KEYS) do
  local at = 4 * i - 1
  local count, period, capacity = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local stored = redis.call('GET', key) or ''
  local state
  if ARGV[at + 3] == '1' then
    local into = math.fmod(now, period)
    local window = string.format('%.0f', (now - into) / period)
    local taken, of = string.match(stored, '^(%S+) (%S+)$')
    state = of == window and tonumber(taken) or 0
    local after = state + cost
    allowed = allowed and after <= count
    values[i], kept[i] = string.format('%.17g ', math.max(after, 0)) .. window, period - into
  else
    local interval = period / count
    state = tonumber(stored) or 0
    local after = math.max(state, now) + cost * interval
    allowed = allowed and after - capacity * interval <= now + 1e-6
    values[i], kept[i] = string.format('%.17g', after), after - now
  end
  reply[i + 1] = string.format('%.17g', state)
end
if allowed then
  for i, key in ipairs(KEYS) do
    if kept[i] > 0 then
      redis.call('SET', key, values[i], 'PX', string.format('%.0f', math.ceil(kept[i] * 1000)))
    else
      redis.call('DEL', key)
    end
  end
end
return reply
""")
"""`core.rate` over all KEYS, in the same arithmetic: Lua's numbers are the same doubles, and %.17g keeps each of them.

ARGV: the cost, the time (empty: the server's), and of each key count, period, capacity and whether it is a quota. Replies the time and the state of each key
before, from which `core.rate.look` gives the verdicts. A negative cost gives back. The value of a quota has the number of its window beside it: the key may
outlive the window by the millisecond to which its end is rounded up.
"""

RELEASE: Final = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
""")
"""Deletes a lease that a token still holds."""
