# A file of settings, read as a shell reads it when it is sourced, and never run: NAME=value on a line of its own, `export` in
# front or not; single quotes, double quotes, backslashes, comments; $NAME and ${NAME} of the lines before or of the
# environment, and ~/. Whatever a shell would run is refused. For jq -Rs, 1.6 and later.
#
# Gives {"settings": {...}}, without what is empty; or {"error": "line 3: NAME: ..."}, which never has a value in it.

def found($regex): [.rest | match($regex)][0];

def behind($match):
  .rest = .rest[($match.string | length):] | .line += ($match.string | split("\n") | length - 1);

def take($match; $text): .value += $text | behind($match);

def fail($why): .error = "line \(.began // .line): \(if .name then "\(.name): " else "" end)\($why)";

def reference($match):
  ($match.captures | map(.string) | map(select(. != null and . != ""))[0]) as $name
  | (.settings[$name] // $ENV[$name]) as $value
  | if $value == null then fail("refers to a variable that is not set; a $ that is none stands in single quotes") else take($match; $value) end;

def quoted_piece:
  found("\\A[^\"\\\\$`]+") as $plain
  | found("\\A\\\\[\"\\\\$`]") as $escaped
  | found("\\A\\$(?:([A-Za-z_][A-Za-z0-9_]*)|\\{([A-Za-z_][A-Za-z0-9_]*)\\})") as $reference
  | if $plain then take($plain; $plain.string)
    elif $escaped then take($escaped; $escaped.string[1:])
    elif $reference then reference($reference)
    elif .rest[:1] == "\"" then .is_quoted = false | .rest = .rest[1:]
    elif .rest[:2] == "\\\n" then behind({string: "\\\n"})
    elif .rest[:1] == "\\" then take({string: "\\"}; "\\")
    elif .rest == "" then fail("a quote is not closed")
    else fail("nothing is run here: a value with $ or a backquote in it stands in single quotes") end;

def bare_piece:
  found("\\A[^\\s'\"\\\\$`;&|<>()~]+") as $plain
  | found("\\A\\\\[^\\n]") as $escaped
  | found("\\A'[^']*'") as $single
  | found("\\A\\$(?:([A-Za-z_][A-Za-z0-9_]*)|\\{([A-Za-z_][A-Za-z0-9_]*)\\})") as $reference
  | found("\\A(?:[ \\t]+#[^\\n]*|[ \\t]*)(?:\\n|\\z)") as $line_end
  | if $line_end then
      behind($line_end)
      | if .value | contains("\ufffd") then fail("is not valid UTF-8")
        else .settings[.name] = .value | .name = null | .began = null end
    elif $plain then take($plain; $plain.string)
    elif $escaped then take($escaped; $escaped.string[1:])
    elif .is_bare and (.rest | test("\\A['\"]")) and (.value | test("\\A[\\[{]")) then fail("JSON stands in single quotes")
    elif $single then .is_bare = false | take($single; $single.string[1:-1])
    elif $reference then reference($reference)
    elif .rest[:1] == "\"" then .is_bare = false | .is_quoted = true | .rest = .rest[1:]
    elif (.rest | test("\\A~(?:/|\\s|\\z)")) and .value == "" then
      if $ENV.HOME then take({string: "~"}; $ENV.HOME) else fail("refers to HOME, which is not set") end
    elif (.rest[:1] == "~") and (.value | test("\\A\\z|:\\z") | not) then take({string: "~"}; "~")
    elif .rest[:1] == "'" then fail("a quote is not closed")
    elif .rest | test("\\A\\s") then
      fail("more follows the value; one with blanks in it stands in single quotes, and each setting on a line of its own")
    else fail("nothing is run here: a value with one of $ ` \\ ; & | < > ( ) ~ in it stands in single quotes") end;

def start:
  found("\\A(?:[ \\t]*(?:#[^\\n]*)?\\n|[ \\t]*(?:#[^\\n]*)?\\z)") as $nothing
  | found("\\A[ \\t]*(?:export[ \\t]+)?([A-Za-z_][A-Za-z0-9_]*)=") as $setting
  | if $nothing then behind($nothing)
    elif $setting then .name = $setting.captures[0].string | .began = .line | .value = "" | .is_quoted = false | .is_bare = true
      | behind($setting)
    else fail("is not NAME=value") end;

# A last line has an end here, whether it has one in the file or not.
{rest: (ltrimstr("\ufeff") | split("\r\n") | join("\n") + "\n"), line: 1, settings: {}}
| until(.error or (.rest == "" and .name == null);
    if .name == null then start elif .is_quoted then quoted_piece else bare_piece end)
| if .error then {error} else {settings: (.settings | with_entries(select(.value != "")))} end
