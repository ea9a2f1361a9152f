// Hello is the program inside the test images that get run: static, and small enough to push often.
package main

import "os"

func main() {
	os.Stdout.WriteString("hello from berth\n")
}
