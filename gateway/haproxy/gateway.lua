-- What HAProxy asks Lua: to read an address as a service would, to exchange a session or a
-- key for an access token, to send documents, and to word its own errors.

-- Set in haproxy.cfg.
local folder, docs, pages = os.getenv("CONFIG"), os.getenv("DOCS"), os.getenv("PAGES")
local auth, web = os.getenv("AUTH"), os.getenv("WEB")

-- A page asks for many things at once: a session's token is kept for this long.
local KEPT_SECONDS = 3
local ASK_MILLISECONDS = 5000
local SAFE = { GET = true, HEAD = true, OPTIONS = true }

-- Returns a path without escapes, dots and doubled slashes; nothing when it has no meaning.
core.register_converters("plain", function(path)
  if path:gsub("%%%x%x", ""):find("%%") then return "" end
  path = path:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)
  if path:find("%z") then return "" end
  local kept = {}
  local last
  for part in path:gmatch("[^/]+") do
    last = part
    if part == ".." then
      if #kept == 0 then return "" end
      table.remove(kept)
    elseif part ~= "." then
      table.insert(kept, part)
    end
  end
  local plain = "/" .. table.concat(kept, "/")
  local open = path:sub(-1) == "/" or last == "." or last == ".."
  return (open and plain ~= "/") and plain .. "/" or plain
end)

-- -- Sessions and keys ------------------------------------------------------------------------

-- Two halves that take turns: what is in neither is forgotten, so nothing has to be counted.
local young, old, turned = {}, {}, 0

local function remembered(key)
  local found = young[key] or old[key]
  if found and found.till > core.now().sec then return found.token end
end

local function remember(key, token)
  local now = core.now().sec
  if now - turned >= KEPT_SECONDS then young, old, turned = {}, young, now end
  young[key] = { token = token, till = now + KEPT_SECONDS }
end

-- One header of the request; those that came twice are one, as everywhere.
local function header(txn, name)
  return txn.sf:req_fhdr(name)
end

local function ask(txn, address, path, headers)
  local sent = {
    ["host"] = { header(txn, "host") },
    ["x-request-id"] = { txn:get_var("txn.rid") },
    ["traceparent"] = { header(txn, "traceparent") },
    ["x-forwarded-for"] = { txn.sf:src() },
    ["x-forwarded-proto"] = { txn:get_var("txn.scheme") },
    ["x-forwarded-host"] = { header(txn, "host") },
  }
  for name, value in pairs(headers) do
    if value ~= "" then sent[name] = { value } end
  end
  return core.httpclient():get {
    url = "http://" .. address .. path, headers = sent, timeout = ASK_MILLISECONDS,
  }
end

local function said(reply, name)
  local values = reply.headers and reply.headers[name]
  return values and values[0] or ""
end

local function take(txn, token)
  if token ~= "" then txn:set_var("txn.token", token) end
end

-- An API key: 204 with the token, or 401. Never kept.
core.register_action("exchange_key", { "http-req" }, function(txn)
  local reply = ask(txn, auth, "/internal/api-key", {
    authorization = header(txn, "authorization"),
  })
  if reply.status == 204 then
    txn.http:req_del_header("authorization")
    take(txn, said(reply, "x-access-token"))
  elseif reply.status == 401 or reply.status == 403 then
    txn:set_var("txn.refused", tostring(reply.status))
    txn:set_var("txn.challenge", said(reply, "www-authenticate"))
  else
    txn:set_var("txn.refused", "503")
  end
end)

-- A session: 204 with the token, 204 without (nobody signed in), 403 (an unsafe method
-- without the right CSRF header). Without web reading goes on as a stranger.
core.register_action("exchange_session", { "http-req" }, function(txn)
  local method = txn.sf:method()
  local session = txn:get_var("txn.session")
  local csrf, origin = header(txn, "x-csrf-token"), header(txn, "origin")
  local key = table.concat({
    txn:get_var("txn.scheme"), header(txn, "host"), session,
    SAFE[method] and "safe" or "unsafe", csrf, origin,
  }, "|")
  local token = remembered(key)
  if token then return take(txn, token) end
  local reply = ask(txn, web, "/internal/session", {
    cookie = txn:get_var("txn.session_name") .. "=" .. session,
    ["x-original-method"] = method,
    ["x-original-uri"] = txn.sf:pathq(),
    ["x-csrf-token"] = csrf,
    origin = origin,
  })
  if reply.status == 204 then
    token = said(reply, "x-access-token")
    remember(key, token)
    take(txn, token)
  elseif reply.status == 401 or reply.status == 403 then
    txn:set_var("txn.refused", tostring(reply.status))
  elseif not SAFE[method] then
    txn:set_var("txn.refused", "503")
  end
end)

-- -- What the gateway says itself --------------------------------------------------------------

local function read(name)
  local file = assert(io.open(folder .. "/" .. name, "rb"))
  local content = file:read("a")
  file:close()
  return content
end

-- Status, title and detail, and the two forms that they take: nginx's own (haproxy.py).
local problem, page = read("problem.txt"), read("page.txt")
local known = {}
for status, title, detail in read("errors.tsv"):gmatch("(%d+)\t([^\t]+)\t([^\n]+)\n") do
  known[status] = { problem_title = title, problem_detail = detail, status = status }
end

local function worded(txn, status)
  local words = known[status]
  local form = txn:get_var("txn.page") and page or problem
  return (form:gsub("%$([a-z_]+)", function(name)
    return words[name] or (name == "rid" and (txn:get_var("txn.rid") or ""))
  end))
end

core.register_fetches("refusal", function(txn, status) return worded(txn, status) end)

-- -- Documents --------------------------------------------------------------------------------

local TYPES = {
  css = "text/css; charset=utf-8", html = "text/html; charset=utf-8",
  js = "text/javascript; charset=utf-8", json = "application/json",
  md = "text/plain; charset=utf-8", svg = "image/svg+xml",
}

-- The routes let through only names that are meant; assets have no folders.
local function file_of(path)
  if path == "/api/openapi.json" then return docs .. "/api/openapi.json" end
  if path == "/docs/" then return pages .. "/index.html" end
  local asset = path:match("^/docs/assets/([%w][%w._-]*)$")
  if asset then return pages .. "/assets/" .. asset end
  local page = path:match("^/docs/([%w-]+)$")
  if page then
    local found = pages .. "/" .. page .. ".html"
    local file = io.open(found)
    if file then
      file:close()
      return found
    end
  end
  local document = path:match("^/docs/([%w/-]+)$")
  return document and docs .. "/" .. document .. ".md"
end

core.register_service("document", "http", function(applet)
  local name = file_of(applet:get_var("txn.plain"))
  local file = name and io.open(name, "rb")
  local content = file and file:read("a")
  if file then file:close() end
  if not content then
    content = worded(applet, "404")
    applet:set_status(404)
    applet:add_header("content-type", "application/problem+json")
  else
    applet:set_status(200)
    applet:add_header("content-type", TYPES[name:match("%.(%w+)$")] or "application/octet-stream")
    applet:add_header("cache-control", "no-cache")
    applet:add_header("cross-origin-resource-policy", "same-origin")
  end
  applet:add_header("content-length", #content)
  applet:start_response()
  if applet.method ~= "HEAD" then applet:send(content) end
end)
