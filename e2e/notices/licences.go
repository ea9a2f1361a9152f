package main

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"
)

// permitted are licences, as words in lower case. What differs are names.
var permitted = []struct {
	name string
	text *regexp.Regexp
}{
	{"MIT", regexp.MustCompile(`permission is hereby granted free of charge to any person obtaining a copy of this software and associated documentation files the software to deal in the software without restriction including without limitation the rights to use copy modify merge publish distribute sublicense and or sell copies of the software and to permit persons to whom the software is furnished to do so subject to the following conditions the above copyright notice and this permission notice shall be included in all copies or substantial portions of the software the software is provided as is without warranty of any kind express or implied including but not limited to the warranties of merchantability fitness for a particular purpose and noninfringement in no event shall the authors or copyright holders be liable for any claim damages or other liability whether in an action of contract tort or otherwise arising from out of or in connection with the software or the use or other dealings in the software`)},
	{"BSD-3-Clause", bsd(` (3 )?neither the names? of (\w+ ){1,8}nor the names of (its|the) (\w+ )?contributors may be used to endorse or promote products derived from this software without specific prior written permission`)},
	{"BSD-2-Clause", bsd(``)},
}

func bsd(third string) *regexp.Regexp {
	return regexp.MustCompile(`redistribution and use in source and binary forms with or without modification are permitted provided that the following conditions are met (1 )?redistributions of source code must retain the above copyright notice this list of conditions and the following disclaimer (2 )?redistributions in binary form must reproduce the above copyright notice this list of conditions and the following disclaimer in the documentation and or other materials provided with the distribution` + third +
		` this software is provided by the (\w+ ){1,8}as is and any express or implied warranties including but not limited to the implied warranties of merchantability and fitness for a particular purpose are disclaimed in no event shall (\w+ ){1,8}be liable for any direct indirect incidental special exemplary or consequential damages including but not limited to procurement of substitute goods or services loss of use data or profits or business interruption however caused and on any theory of liability whether in contract strict liability or tort including negligence or otherwise arising in any way out of the use of this software even if advised of the possibility of such damage`)
}

// read are texts that somebody has read and found permitted, by their SHA-256.
var read = map[string]string{
	"507d222b2efacb0e701eef6d13a2383113b2b6251d237c55923c5c8d66ea6089": "Apache-2.0",                    // go-digest
	"a8ad31b1c3f40dca5a84119351b8fa8ddc868edd77fad8a8ebf6d8f2d16fa4ae": "Apache-2.0",                    // go-oidc
	"dccd26c6fd9c296daf44d0bc56bb4efc566edd4880381b3331c9a63e6e471338": "its notice",                    // go-oidc
	"c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4": "Apache-2.0",                    // go-jose
	"96f408bfae65bf137fc2525d3ecb030271c50c1e90799f87abf8846d8dd505cc": "Go's patent grant",             // golang.org/x
	"f597097efe3d97021f89170746bd3a0fb9a8b6fb26b82043ed68a4e0283bee6c": "BSD-3-Clause, MIT",             // what modernc.org/libc is made from: Go, musl, go-netdb, nixpkgs
	"8438c9c89b849131ead81d5435cb97fcf052df5b0b286dda8a2d4c29e6cb3fd0": "public domain",                 // SQLite
	"0d9e582ee4bff57bf1189c9e514e6da7ce277f9cd3bc2d488b22fbb39a6d87cf": "BSD-3-Clause, Apache-2.0, MIT", // klauspost/compress, of which others than BSD are for parts that are not linked
}

var (
	noWord = regexp.MustCompile(`[^a-z0-9]+`)
	// before is what a licence may have before it: a title, and whose it is.
	before = regexp.MustCompile(`^((the )?(mit|bsd|bsd 3 clause|bsd 2 clause) license (mit )?)?copyright (\w+ ){1,20}$`)
	after  = regexp.MustCompile(`^(http www opensource org licenses mit license php )?$`)
	// demands are words that no names are: they would belong to a condition.
	demands = regexp.MustCompile(`\b(commercial|except|may|must|not|only|provided|shall|unless|without)\b`)
)

// recognise returns the name of a licence, empty if it is not one that is permitted.
func recognise(text string) string {
	if name := read[fmt.Sprintf("%x", sha256.Sum256([]byte(text)))]; name != "" {
		return name
	}
	words := strings.TrimLeft(noWord.ReplaceAllString(strings.ToLower(text), " "), " ")
	for _, l := range permitted {
		at := l.text.FindStringIndex(words)
		if at == nil {
			continue
		}
		head, tail := words[:at[0]], strings.TrimLeft(words[at[1]:], " ")
		if before.MatchString(head) && !demands.MatchString(head) && after.MatchString(tail) {
			return l.name
		}
	}
	return ""
}
