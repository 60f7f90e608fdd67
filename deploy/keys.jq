# The list of issued keys, judged as the gateway judges it (src/keys/entry.rs): a module for jq 1.6 and later.
#
# What jq cannot see, since it reads more than JSON and keeps the last of two fields of one name, is in keys.sh.

def fields:
  ["id", "key", "key_sha256", "enabled", "expires_at", "models", "metrics", "rpm", "max_concurrent", "tokens_per_day",
   "tokens_if_unknown"];

# What a script makes of a variable that was not set.
def digest_of_nothing: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

def is_alias: type == "string" and test("\\A[A-Za-z0-9._/:@-]{1,128}\\z") and test("[A-Za-z0-9]");

# aliases: those of a gateway with these settings.
def aliases:
  ["flash", "pro-preview"]
  + [keys_unsorted[] | select(test("\\AMODEL_.+_ID\\z")) | .[6:-3] | ascii_downcase | split("_") | join("-")]
  + [(.MODEL_ALIASES_JSON // "{}") | (fromjson? // {}) | select(type == "object") | keys_unsorted[]];

# Days from 1970 on, in the calendar that never changed.
def days($year; $month; $day):
  (if $month <= 2 then $year - 1 else $year end) as $year
  | ($year / 400 | floor) as $era
  | ($year - 400 * $era) as $year_of_era
  | ((153 * (($month + 9) % 12) + 2) / 5 | floor) as $day_of_year
  | 146097 * $era + 365 * $year_of_era + ($year_of_era / 4 | floor) - ($year_of_era / 100 | floor)
    + $day_of_year + $day - 1 - 719468;

def days_in($year; $month):
  if $month == 2 then (if $year % 4 == 0 and ($year % 100 != 0 or $year % 400 == 0) then 29 else 28 end)
  else [31, 0, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][$month - 1] end;

# seconds: of a time by RFC 3339; null for any other text. A leap second is the one before it.
def seconds:
  [capture("\\A(?<year>[0-9]{4})-(?<month>[0-9]{2})-(?<day>[0-9]{2})T(?<hour>[0-9]{2}):(?<minute>[0-9]{2}):(?<second>[0-9]{2})([.][0-9]{1,9})?(Z|(?<sign>[+-])(?<hours>[0-9]{2}):(?<minutes>[0-9]{2}))\\z")][0]
  | if . == null then null else
      (.sign // "+") as $sign
      | (del(.sign) | map_values((. // "0") | tonumber)) as $at
      | if $at.month < 1 or $at.month > 12 or $at.day < 1 or $at.day > days_in($at.year; $at.month)
          or $at.hour > 23 or $at.minute > 59 or $at.second > 60 or $at.hours > 25 or $at.minutes > 59
        then null
        else
          days($at.year; $at.month; $at.day) * 86400 + $at.hour * 3600 + $at.minute * 60 + ([$at.second, 59] | min)
          - (if $sign == "-" then -1 else 1 end) * ($at.hours * 3600 + $at.minutes * 60)
          # 9999-12-30T22:00:00Z, the last that the gateway can hold.
          | select(. <= 253402207200) // null
        end
    end;

# optional(NAME; RULE; FORM): what is wrong with a field that may be missing.
def optional($name; rule; $form):
  if has($name) and (.[$name] | rule | not) then "'\($name)' must be \($form)" else empty end;

def whole_number($name; $at_most):
  optional($name; type == "number" and . >= 1 and . <= $at_most and floor == .; "a whole number from 1 to \($at_most)");

def id_problems:
  if has("id") | not then "'id' is missing"
  elif .id | type != "string" then "'id' must be a string"
  elif .id == "" then "'id' is empty"
  elif (.id | utf8bytelength) > 128 or (.id | explode | any(. < 32 or (. >= 127 and . < 160)))
  then "'id' must be at most 128 bytes without control characters"
  else empty end;

def key_problems:
  if has("key") and has("key_sha256") then "has both 'key' and 'key_sha256'"
  elif has("key_sha256") then
    optional("key_sha256"; type == "string" and test("\\A[0-9a-f]{64}\\z") and . != digest_of_nothing;
      "the SHA-256 of a key, as 64 lower-case hexadecimal digits; 'ai-proxy keys hash' prints it")
  elif has("key") | not then "'key' is missing, or 'key_sha256' in its place"
  elif .key | type != "string" then "'key' must be a string"
  elif .key == "" then "'key' is empty"
  else
    (if (.key | utf8bytelength) < 20 then "'key' is shorter than 20 characters" else empty end),
    (if .key | test("\\A[!-~]*\\z") then empty else "'key' has a character that a header cannot carry" end)
  end;

def entry_problems($aliases):
  if type != "object" then "must be an object with 'id' and 'key' or 'key_sha256'"
  else
    (if keys - fields == [] then empty else "has a field other than \(fields | map("'\(.)'") | join(", "))" end),
    id_problems,
    key_problems,
    optional("enabled"; type == "boolean"; "true or false"),
    optional("metrics"; type == "boolean"; "true or false"),
    optional("expires_at"; type == "string" and seconds != null; "a time by RFC 3339, such as \"2030-12-31T23:59:59Z\""),
    optional("models"; type == "array" and . != [] and all(.[]; is_alias) and (unique | length) == length;
      "a list of one alias or more, none of them twice"),
    (if has("models") and (.models | type == "array") and (.models - $aliases != [])
      then "'models' names an alias that does not exist" else empty end),
    whole_number("rpm"; 100000),
    whole_number("max_concurrent"; 1000000),
    whole_number("tokens_per_day"; 1000000000000000),
    whole_number("tokens_if_unknown"; 1000000000000000),
    (if has("tokens_if_unknown") and (has("tokens_per_day") | not)
      then "'tokens_if_unknown' means nothing without 'tokens_per_day'" else empty end)
  end;

# list_problems: of all values of a file in an array; nothing for a list that is right. Entries go by position, and no value is
# shown.
def list_problems($aliases):
  if length != 1 or (.[0] | type != "array") then "must be a JSON array of {\"id\",\"key\",\"enabled\"}"
  else
    .[0]
    | (to_entries[] | .key as $at | .value | entry_problems($aliases) | "entry \($at + 1): \(.)"),
      # Not those that were told of above.
      ([.[] | objects | (.key, .key_sha256) | strings]
        | if (unique | length) == length then empty else "a key stands twice in the list" end),
      ([.[] | objects | .key | strings] as $keys
        | if any(.[]; type == "object" and (.id | IN($keys[]))) then "an 'id' is a key of the list" else empty end),
      (if any(.[]; type == "object" and .enabled != false) then empty
        else "has no enabled key, so nobody could use the gateway" end)
  end;

# repeated: the positions of entries with a field that stands twice, from the events of --stream: a field's end is seen once.
def repeated:
  [.[] | select((length == 2 and (.[0] | length) == 2) or (length == 1 and (.[0] | length) == 3)) | .[0][:2]]
  | group_by(.) | map(select(length > 1) | .[0][0]) | unique[];

# trial: the key and the alias to try the gateway with: of a key that is not over and the less bounded the better, or else
# $own, of which nothing is known. Nothing where there is neither.
def trial($own):
  [.[] | objects
    | select(.key and .enabled != false and (.expires_at == null or (.expires_at | seconds) > now + 60))
    | {key, model: (if .models == null or (.models | index("flash")) then "flash" else .models[0] end),
       worth: [(.models == null or (.models | index("flash") != null)), ((.rpm // 100) >= 20), (.tokens_per_day == null)]}]
  | ((group_by(.worth) | last | .[0]) // (if ($own // "") == "" then empty else {key: $own, model: "flash"} end))
  | {key, model};
