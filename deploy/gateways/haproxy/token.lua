-- Asks apim-auth-proxy for the token of a host, and keeps it for as long as the answer says (RFC 9111, RFC 5861): fresh until it is to be
-- renewed, and, where the proxy does not answer, until it may no longer be sent.
local HOST = "contoso.azure-api.net"
local URL = "http://127.0.0.1:8090/authorize"
local TIMEOUT_MS = 5500 -- HAProxy tries four times: altogether a little over timeouts.token_s of the proxy

local known = { value = nil, fresh_until = 0, usable_until = 0 }

local function ask()
  local client = core.httpclient()
  local answer = client:get { url = URL, headers = { host = { HOST } }, timeout = TIMEOUT_MS }
  local now = core.now().sec
  if answer == nil or answer.status ~= 200 or answer.headers["authorization"] == nil then
    return nil
  end
  local field = answer.headers["cache-control"]
  local held = field and field[0] or ""
  local fresh_s = tonumber(held:match("max%-age=(%d+)")) or 0
  local more_s = tonumber(held:match("stale%-if%-error=(%d+)")) or 0
  return { value = answer.headers["authorization"][0], fresh_until = now + fresh_s, usable_until = now + fresh_s + more_s }
end

core.register_action("token", { "http-req" }, function(txn)
  local found = known
  local now = core.now().sec
  if now >= found.fresh_until then
    local new = ask()
    now = core.now().sec
    if new ~= nil then
      known = new
      found = new
    elseif now >= found.usable_until then
      return -- the configuration refuses a request without a token
    end
  end
  txn:set_var("txn.authorization", found.value)
end)
