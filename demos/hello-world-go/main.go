// Writes to both output streams, then shows what the pod manifest gave it: environment and arguments.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	fmt.Println("hello from stdout!")
	fmt.Fprintln(os.Stderr, "hello from stderr!")
	for _, name := range []string{"CONFIG_MAP_VAL", "FOO", "POD_NAME"} {
		if value, found := os.LookupEnv(name); found {
			fmt.Printf("%s=%s\n", name, value)
		}
	}
	var quoted []string
	for _, argument := range os.Args[1:] {
		quoted = append(quoted, fmt.Sprintf("%q", argument))
	}
	fmt.Printf("Args are: [%s]\n", strings.Join(quoted, ", "))
}
