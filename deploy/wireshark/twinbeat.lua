-- SPDX-License-Identifier: Apache-2.0
--
-- Twinbeat's heartbeats for Wireshark and tshark, 4.0 or newer.
--
-- Put it into Wireshark's folder of personal Lua plugins, or name it on the command line:
--
--   tshark -X lua_script:twinbeat.lua -o twinbeat.keys_directory:/root/keys -r ha0.pcap
--
-- The layout is that of `struct tb_frame` in ebpf/tb_abi.h, and tests/unit/test_wireshark.py compares
-- the two. With the keys (the files ID.key as `twinbeat keys generate` writes them; never the key
-- itself, which would show in a list of processes) the seal of each frame is checked. 64-bit words
-- are Wireshark's own UInt64, whatever version of Lua it was built with.

local twinbeat = Proto("twinbeat", "Twinbeat heartbeat")

local MAGIC = 0x54425431
local VERSION = 1
local PORT = 3003
local SIZE = 128
local COVERED = 120 -- bytes before the seal

local HELLO, PROBE, ANSWER, CONTROL = 1, 2, 3, 4
local TYPES = { [HELLO] = "HELLO", [PROBE] = "PROBE", [ANSWER] = "ANSWER", [CONTROL] = "CONTROL" }
local ROLES = { [0] = "init", "secondary", "claiming", "primary", "disabled" }
local ADMINS = { [0] = "enabled", "stay-primary", "stay-secondary", "disabled" }

-- In the order of their bits.
local FLAGS = {
	{ "open", "its gate is open" },
	{ "hears_you", "it hears the receiver" },
	{ "yield", "take over: its reign ends as soon as you claim" },
	{ "paused", "nobody claims" },
	{ "restart", "planned restart: silence is expected" },
	{ "isolated", "it is cut off from the network" },
	{ "contested", "its gate is shut as another one was heard open" },
	{ "fit", "it could serve" },
	{ "starting", "it has not listened for long enough yet" },
	{ "preferred", "it was told to stay primary" },
	{ "claiming", "it asks for the term in claim" },
	{ "pause_ack", "it has seen that the receiver is paused" },
	{ "stranded", "it opened without a receipt and has none yet" },
	{ "never_claims", "it will not take over" },
	{ "known", "ANSWER: the echoed time is the newest counter it knows" },
	{ "newborn", "its disk knows of no term" },
	{ "proposal", "HELLO: some fields are intervals that it wants" },
	{ "refuses", "it does not keep the receiver's proposal" },
	{ "even_so", "though a host can't hold them" },
	{ "negotiates", "it understands proposals" },
}
local PAUSE_SHIFT = 22 -- the bits from there on: what is left of a pause, see pause_left_ms()
local OPEN, CLAIMING, KNOWN, PROPOSAL = 1, 11, 15, 17 -- places in FLAGS

-- ------------------------------------------------------------------------------ fields ----

local field = {}

local function named(name, make, ...)
	field[name] = make("twinbeat." .. name, ...)
end

-- The frame: name, first byte, bytes, kind, title, base, words for values. Where a frame with a
-- proposal (or an ANSWER that says `known`) has something else in that place: its name and title.
local LAYOUT = {
	{ "magic", 0, 4, ProtoField.uint32, "Magic", base.HEX },
	{ "version", 4, 1, ProtoField.uint8, "Layout" },
	{ "type", 5, 1, ProtoField.uint8, "Type", base.DEC, TYPES },
	{ "node", 6, 1, ProtoField.uint8, "Sender's index" },
	{ "link", 7, 1, ProtoField.uint8, "Link" },
	{ "pair", 8, 4, ProtoField.uint32, "Pair" },
	{ "key_id", 12, 1, ProtoField.uint8, "Sealed with key" },
	{ "keys", 13, 1, ProtoField.uint8, "Accepts key", again = 14 },
	{ "layouts", 15, 1, ProtoField.uint8, "Newest layout spoken" },
	{ "counter", 16, 8, ProtoField.uint64, "Counter", base.HEX, parts = true },
	{ "echo", 24, 8, ProtoField.uint64, "Echo: newest counter heard", base.HEX },
	{ "term", 32, 8, ProtoField.uint64, "Term" },
	{ "claim", 40, 8, ProtoField.uint64, "Claim" },
	{ "fence_below", 48, 8, ProtoField.uint64, "Fence: over is every term below" },
	{ "highest", 56, 8, ProtoField.uint64, "Highest term seen" },
	{ "sent_ns", 64, 8, ProtoField.uint64, "Sent at, sender's clock (ns)" },
	{ "echo_ns", 72, 8, ProtoField.uint64, "Echoed time (ns)",
		known = { "known", "Newest counter of the receiver that it knows", base.HEX } },
	{ "lease_us", 80, 4, ProtoField.uint32, "Left of the lease (us)" },
	{ "flags", 84, 4, ProtoField.uint32, "Flags", base.HEX },
	{ "role", 88, 1, ProtoField.uint8, "Role", base.DEC, ROLES },
	{ "admin", 89, 1, ProtoField.uint8, "Administrative status", base.DEC, ADMINS },
	{ "health", 90, 2, ProtoField.uint16, "Health" },
	{ "dead_us", 92, 4, ProtoField.uint32, "Dead interval (us)" },
	{ "lease_full_us", 96, 4, ProtoField.uint32, "Full lease (us)",
		proposal = { "proposal_lease_us", "Proposed lease (us)" } },
	{ "hello_us", 100, 4, ProtoField.uint32, "Hello interval (us)",
		proposal = { "proposal_hello_us", "Proposed hello interval (us)" } },
	{ "verify_us", 104, 4, ProtoField.uint32, "Verify window (us)",
		proposal = { "proposal_verify_us", "Proposed verify window (us)" } },
	{ "hold_us", 108, 4, ProtoField.uint32, "Echo lay (us)",
		proposal = { "proposal_dead_us", "Proposed dead interval (us)" } },
	{ "generation", 112, 4, ProtoField.uint32, "Generation of the shared configuration",
		proposal = { "proposal_number", "Number of the proposal" } },
	{ "digest", 116, 4, ProtoField.uint32, "Digest of the shared configuration", base.HEX,
		proposal = { "proposal_stall_us", "Proposed stall time (us)" } },
}
local HEAD = 5 -- of them: those that no version moves

for _, each in ipairs(LAYOUT) do
	local other = each.known or each.proposal
	named(each[1], each[4], each[5], each[6], each[7])
	if other then
		named(other[1], each[4], other[2], other[3])
	end
end

-- What is found out, or is a part of one of those.
for _, each in ipairs({
	{ "counter_epoch", ProtoField.uint32, "Boot epoch" },
	{ "counter_sequence", ProtoField.uint32, "Sequence" },
	{ "mac", ProtoField.uint64, "Seal (SipHash-2-4)", base.HEX },
	{ "mac_status", ProtoField.string, "Seal checked" },
	{ "receipt", ProtoField.uint64, "Receipt for the claim of term" },
	{ "answer_in", ProtoField.framenum, "Answered in", base.NONE, frametype.RESPONSE },
	{ "answer_to", ProtoField.framenum, "Answer to", base.NONE, frametype.REQUEST },
	{ "answer_us", ProtoField.double, "Answered after (us)" },
	{ "pause_left_ms", ProtoField.double, "Left of the pause (ms, rounded up)" },
}) do
	named(each[1], each[2], each[3], each[4], each[5])
end
for place, flag in ipairs(FLAGS) do
	named("flags_" .. flag[1], ProtoField.bool, flag[2], 32, nil, 2 ^ (place - 1))
end

local all = {}
for _, each in pairs(field) do
	table.insert(all, each)
end
twinbeat.fields = all

local notes, experts = {}, {}
for name, note in pairs({
	size = { "bad_size", "A heartbeat has 128 bytes", "MALFORMED", "ERROR" },
	cut = { "cut", "The capture cut this frame short", "UNDECODED", "NOTE" },
	version = { "bad_version", "Layout not known here", "UNDECODED", "WARN" },
	unknown = { "bad_value", "Value that no version has", "PROTOCOL", "WARN" },
	seal = { "bad_mac", "Bad seal: forged, damaged, or another key", "CHECKSUM", "ERROR" },
	no_key = { "no_key", "No file of that key: seal not checked", "SECURITY", "NOTE" },
	claim = { "claims", "Claims the role", "SEQUENCE", "WARN" },
	receipt = { "receipts", "Receipt: it serves nothing older than the claim", "SEQUENCE", "NOTE" },
	probe = { "probes", "Asks the other kernel whether it lives", "REQUEST_CODE", "CHAT" },
	answer = { "answers", "The kernel lives, whatever its agent does", "RESPONSE_CODE", "CHAT" },
	two = { "two_open", "Both gates say that they are open", "SEQUENCE", "ERROR" },
}) do
	notes[name] = ProtoExpert.new("twinbeat." .. note[1], note[2],
		expert.group[note[3]], expert.severity[note[4]])
	table.insert(experts, notes[name])
end
twinbeat.experts = experts

twinbeat.prefs.keys_directory = Pref.string("Directory of keys", "",
	"Directory with the files ID.key (32 hexadecimal digits); empty = seals are not checked")

-- -------------------------------------------------------------------------------- keys ----

local keys = {} -- id -> { k0, k1 }, or false: none that can be read

-- Eight bytes, as hexadecimal digits in the order of the file, as a little-endian word.
local function word_of(digits)
	local reversed = ""
	for byte in digits:gmatch("%x%x") do
		reversed = byte .. reversed
	end
	return UInt64.fromhex(reversed)
end

local function key_of(id)
	if keys[id] == nil then
		keys[id] = false
		local directory = twinbeat.prefs.keys_directory
		local file = directory ~= "" and io.open(directory .. "/" .. id .. ".key", "r")
		if file then
			local digits = (file:read(64) or ""):match("^%s*(%x+)%s*$")
			file:close()
			if digits and #digits == 32 then
				keys[id] = { word_of(digits:sub(1, 16)), word_of(digits:sub(17)) }
			end
		end
	end
	return keys[id]
end

-- SipHash-2-4 (Aumasson and Bernstein, 2012) over the bytes before the seal.
local function seal_of(key, payload)
	local v0 = key[1]:bxor(UInt64(0x70736575, 0x736f6d65))
	local v1 = key[2]:bxor(UInt64(0x6e646f6d, 0x646f7261))
	local v2 = key[1]:bxor(UInt64(0x6e657261, 0x6c796765))
	local v3 = key[2]:bxor(UInt64(0x79746573, 0x74656462))

	local function rounds(count)
		for _ = 1, count do
			v0 = v0 + v1
			v1 = v1:rol(13):bxor(v0)
			v0 = v0:rol(32)
			v2 = v2 + v3
			v3 = v3:rol(16):bxor(v2)
			v0 = v0 + v3
			v3 = v3:rol(21):bxor(v0)
			v2 = v2 + v1
			v1 = v1:rol(17):bxor(v2)
			v2 = v2:rol(32)
		end
	end

	for at = 0, COVERED - 8, 8 do
		local word = payload(at, 8):le_uint64()
		v3 = v3:bxor(word)
		rounds(2)
		v0 = v0:bxor(word)
	end
	-- 120 is a multiple of eight: the last word has the length in its highest byte and nothing else.
	local last = UInt64(0, COVERED * 0x1000000)
	v3 = v3:bxor(last)
	rounds(2)
	v0 = v0:bxor(last)
	v2 = v2:bxor(UInt64(0xff, 0))
	rounds(4)
	return v0:bxor(v1):bxor(v2):bxor(v3)
end

-- ------------------------------------------------------- what frames say of each other ----

local newest = {} -- pair -> node -> what its newest frame said
local probes = {} -- pair/node/counter -> { number, time }
local seen = {} -- number of a frame -> what was found out when it was first read

function twinbeat.init()
	keys, newest, probes, seen = {}, {}, {}, {}
end

function twinbeat.prefs_changed()
	keys = {}
end

local function name_of(pair, node, counter)
	return pair .. "/" .. node .. "/" .. tostring(counter)
end

-- On the first pass, in the order of the capture: remember, and compare with the other node's words.
local function remember(pinfo, said)
	if pinfo.visited then
		return seen[pinfo.number] or {}
	end
	local found = {}
	local pair = newest[said.pair] or {}
	newest[said.pair] = pair
	local other = pair[1 - said.node]
	if other and other.claim > UInt64(0) and said.fence_below >= other.claim
		and not (said.open and said.term > other.claim) then
		found.receipt = other.claim
	end
	if other and other.open and said.open and other.term ~= said.term
		and pinfo.rel_ts - other.at < other.lease_us / 1e6 then
		found.two = true
	end
	if said.type == PROBE then
		probes[name_of(said.pair, said.node, said.counter)] = { pinfo.number, pinfo.rel_ts }
	elseif said.type == ANSWER then
		local probe = probes[name_of(said.pair, 1 - said.node, said.echo)]
		if probe then
			found.answer_to, found.answer_us = probe[1], (pinfo.rel_ts - probe[2]) * 1e6
			seen[probe[1]].answer_in = pinfo.number
		end
	end
	said.at = pinfo.rel_ts
	if said.type ~= CONTROL then
		pair[said.node] = said
	end
	seen[pinfo.number] = found
	return found
end

-- --------------------------------------------------------------------------- dissection ----

local function places(flags)
	local set = {}
	for place = 1, 32 do
		set[place] = flags % 2 == 1
		flags = math.floor(flags / 2)
	end
	return set
end

-- Five bits of exponent over five of mantissa.
local function pause_left_ms(flags)
	local code = math.floor(flags / 2 ^ PAUSE_SHIFT)
	local exponent = math.floor(code / 32)
	return exponent == 0 and code or (32 + code % 32) * 2 ^ (exponent - 1)
end

local function add_flags(tree, payload, set)
	local names, strange = {}, false
	for place = 1, 32 do
		if set[place] and FLAGS[place] then
			table.insert(names, FLAGS[place][1])
		end
		strange = strange or (set[place] and not FLAGS[place] and place <= PAUSE_SHIFT)
	end
	local branch = tree:add(field.flags, payload(84, 4))
	branch:append_text(" (" .. table.concat(names, ", ") .. ")")
	for _, flag in ipairs(FLAGS) do
		branch:add(field["flags_" .. flag[1]], payload(84, 4))
	end
	local left = pause_left_ms(payload(84, 4):uint())
	if left > 0 then
		branch:add(field.pause_left_ms, payload(84, 4), left)
	end
	if strange then
		branch:add_proto_expert_info(notes.unknown, "Flags that no version has")
	end
end

local function add_counter(tree, item, range)
	local branch = tree:add(item, range)
	branch:add(field.counter_epoch, range(0, 4))
	branch:add(field.counter_sequence, range(4, 4))
end

-- Fields in the order of the frame, from one of LAYOUT to another; false where the capture ends.
local function add_fields(tree, payload, first, last, set, kind)
	for place = first, last do
		local each = LAYOUT[place]
		if each[2] + each[3] > payload:len() then
			return false
		end
		local item, range = field[each[1]], payload(each[2], each[3])
		local other = each.proposal and kind == HELLO and set[PROPOSAL] and each.proposal
			or each.known and kind == ANSWER and set[KNOWN] and each.known
		if each.parts then
			add_counter(tree, item, range)
		elseif each[1] == "flags" then
			add_flags(tree, payload, set)
		else
			tree:add(other and field[other[1]] or item, range)
		end
		if each.again then
			tree:add(item, payload(each.again, each[3]))
		end
	end
	return true
end

local function add_seal(tree, payload, key_id)
	local branch = tree:add_le(field.mac, payload(COVERED, 8))
	local key = key_of(key_id)
	local status = "unverified"
	if key then
		status = seal_of(key, payload) == payload(COVERED, 8):le_uint64() and "good" or "bad"
	end
	branch:add(field.mac_status, payload(COVERED, 8), status):set_generated()
	if status == "bad" then
		branch:add_proto_expert_info(notes.seal)
	elseif status == "unverified" and twinbeat.prefs.keys_directory ~= "" then
		branch:add_proto_expert_info(notes.no_key)
	end
	return status
end

local function add_relations(tree, payload, said, found, set)
	if said.type ~= ANSWER and (set[CLAIMING] or said.claim > UInt64(0)) then
		tree:add_proto_expert_info(notes.claim, "Claims term " .. tostring(said.claim))
	end
	if found.receipt then
		tree:add(field.receipt, payload(48, 8), found.receipt):set_generated()
		tree:add_proto_expert_info(notes.receipt)
	end
	if found.two then
		tree:add_proto_expert_info(notes.two)
	end
	if said.type == PROBE then
		tree:add_proto_expert_info(notes.probe)
	elseif said.type == ANSWER then
		tree:add_proto_expert_info(notes.answer)
	end
	if found.answer_in then
		tree:add(field.answer_in, found.answer_in):set_generated()
	end
	if found.answer_to then
		tree:add(field.answer_to, found.answer_to):set_generated()
		tree:add(field.answer_us, found.answer_us):set_generated()
	end
end

local function sentence(said, found, status)
	local words = {
		TYPES[said.type] or ("type " .. said.type),
		"node " .. said.node,
		"link " .. said.link,
		ROLES[said.role] or ("role " .. said.role),
	}
	if said.open then
		table.insert(words, "OPEN term " .. tostring(said.term))
	end
	if said.claim > UInt64(0) then
		table.insert(words, "CLAIM " .. tostring(said.claim))
	end
	if found.receipt then
		table.insert(words, "RECEIPT " .. tostring(found.receipt))
	end
	if status == "bad" then
		table.insert(words, "BAD SEAL")
	end
	return table.concat(words, ", ")
end

function twinbeat.dissector(payload, pinfo, root)
	local length = payload:len()
	if length < 4 or payload(0, 4):uint() ~= MAGIC then
		return 0
	end
	pinfo.cols.protocol = "Twinbeat"
	local tree = root:add(twinbeat, payload())
	-- The head, which no version moves.
	local whole = add_fields(tree, payload, 1, HEAD)
	local reported = payload:reported_len()
	if reported ~= SIZE then
		tree:add_proto_expert_info(notes.size, "A heartbeat has 128 bytes, this one " .. reported)
		pinfo.cols.info = "heartbeat of " .. reported .. " bytes, which no node takes"
		return reported
	end
	if length < SIZE then
		tree:add_proto_expert_info(notes.cut)
		pinfo.cols.info = (whole and TYPES[payload(5, 1):uint()] or "heartbeat") .. ", cut by the capture"
		return length
	end
	if payload(4, 1):uint() ~= VERSION then
		tree:add_proto_expert_info(notes.version)
	end
	local set = places(payload(84, 4):uint())
	local said = {
		type = payload(5, 1):uint(),
		node = payload(6, 1):uint(),
		link = payload(7, 1):uint(),
		pair = payload(8, 4):uint(),
		counter = payload(16, 8):uint64(),
		echo = payload(24, 8):uint64(),
		term = payload(32, 8):uint64(),
		claim = payload(40, 8):uint64(),
		fence_below = payload(48, 8):uint64(),
		lease_us = payload(80, 4):uint(),
		role = payload(88, 1):uint(),
		open = set[OPEN],
	}
	add_fields(tree, payload, HEAD + 1, #LAYOUT, set, said.type)
	local status = add_seal(tree, payload, payload(12, 1):uint())
	if not TYPES[said.type] or said.node > 1 then
		tree:add_proto_expert_info(notes.unknown)
	end
	-- Who can't have said it is not believed here either.
	local found = status ~= "bad" and remember(pinfo, said) or {}
	add_relations(tree, payload, said, found, set)
	local told = sentence(said, found, status)
	tree:append_text(": " .. told)
	pinfo.cols.info = told
	return SIZE
end

DissectorTable.get("udp.port"):add(PORT, twinbeat)
