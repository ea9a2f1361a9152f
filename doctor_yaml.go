// The little YAML that k3s has people write in registries.yaml: maps, lists and plain values by
// indentation. What goes beyond that is an error and not guessed at, so that the doctor says
// nothing wrong.

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// A yamlLine is a line that says something.
type yamlLine struct {
	number, indent int
	text           string // without indentation and comment
}

// readPlainYAML reads a map. Values are strings, []any and map[string]any.
func readPlainYAML(text []byte) (map[string]any, error) {
	var lines []yamlLine
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimRight(line, " \r\n")
		body := strings.TrimLeft(line, " ")
		if strings.HasPrefix(body, "\t") {
			return nil, fmt.Errorf("line %d: a tab, which YAML does not allow there", n)
		}
		if at := yamlComment().FindStringIndex(body); at != nil {
			body = strings.TrimRight(body[:at[0]], " ")
		}
		if body == "" || body == "---" {
			continue
		}
		lines = append(lines, yamlLine{n, len(line) - len(strings.TrimLeft(line, " ")), body})
	}
	value, rest, err := readYAMLBlock(lines, 0)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("line %d: its indentation fits nothing", rest[0].number)
	}
	tree, ok := value.(map[string]any)
	if value != nil && !ok {
		return nil, fmt.Errorf("line %d: a list, where keys are wanted", lines[0].number)
	}
	return tree, nil
}

// yamlComment is where a comment begins. None of the values that are read here has a # after a space.
var yamlComment = expression(`(^| )#.*$`)

// readYAMLBlock reads what is indented by at least so much, and returns the lines after it.
func readYAMLBlock(lines []yamlLine, least int) (value any, rest []yamlLine, err error) {
	if len(lines) == 0 || lines[0].indent < least {
		return nil, lines, nil
	}
	indent := lines[0].indent
	if strings.HasPrefix(lines[0].text, "- ") || lines[0].text == "-" {
		var list []any
		for len(lines) > 0 && lines[0].indent == indent && strings.HasPrefix(lines[0].text, "-") {
			item, err := yamlScalar(lines[0], strings.TrimSpace(lines[0].text[1:]))
			if err != nil {
				return nil, nil, err
			}
			list, lines = append(list, item), lines[1:]
		}
		return list, lines, nil
	}
	tree := make(map[string]any)
	for len(lines) > 0 && lines[0].indent == indent {
		line := lines[0]
		key, after, err := yamlKey(line)
		if err != nil {
			return nil, nil, err
		}
		lines = lines[1:]
		if after != "" {
			if tree[key], err = yamlScalar(line, after); err != nil {
				return nil, nil, err
			}
			continue
		}
		inner := indent + 1
		if len(lines) > 0 && lines[0].indent == indent && strings.HasPrefix(lines[0].text, "-") {
			inner = indent // a list may stand under its key
		}
		if tree[key], lines, err = readYAMLBlock(lines, inner); err != nil {
			return nil, nil, err
		}
	}
	return tree, lines, nil
}

// yamlKey parts a line into a key and what follows the colon.
func yamlKey(line yamlLine) (key, after string, err error) {
	text := line.text
	if quote := text[0]; quote == '"' || quote == '\'' {
		end := strings.IndexByte(text[1:], quote)
		if end < 0 {
			return "", "", fmt.Errorf("line %d: a quote is not closed", line.number)
		}
		key, text = text[1:end+1], text[end+2:]
		if !strings.HasPrefix(text, ":") {
			return "", "", fmt.Errorf("line %d: a colon is missing", line.number)
		}
		return key, strings.TrimSpace(text[1:]), nil
	}
	if key, after, ok := strings.Cut(text, ": "); ok {
		return key, strings.TrimSpace(after), nil
	}
	if key, ok := strings.CutSuffix(text, ":"); ok {
		return key, "", nil
	}
	return "", "", fmt.Errorf("line %d: a colon is missing", line.number)
}

// yamlScalar is a value in one line: a string, or a list in brackets.
func yamlScalar(line yamlLine, text string) (any, error) {
	if inside, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inside, "]") {
		list := []any{}
		for _, item := range splitList(strings.TrimSuffix(inside, "]")) {
			value, err := yamlScalar(line, strings.TrimSpace(item))
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	}
	if n := len(text); n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n-1] == text[0] {
		return text[1 : n-1], nil
	}
	if text == "{}" {
		return map[string]any{}, nil
	}
	if text == "" || strings.ContainsAny(text[:1], "{[&*!|>\"'%@`") || strings.Contains(text, ": ") {
		return nil, fmt.Errorf("line %d", line.number)
	}
	return text, nil
}

// yamlStrings are the strings at a path of keys: one, or a list of them.
func yamlStrings(tree map[string]any, path ...string) (list []string) {
	var value any = tree
	for _, key := range path {
		inner, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = inner[key]
	}
	switch x := value.(type) {
	case string:
		return []string{x}
	case []any:
		for _, item := range x {
			if text, ok := item.(string); ok {
				list = append(list, text)
			}
		}
	}
	return list
}

func digits(n int) string { return strconv.Itoa(n) }
