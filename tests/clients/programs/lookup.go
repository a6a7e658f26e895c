// lookup A|AAAA|both|host|SRV NAME: what Go's own resolver finds, a line each, or one line "! ERROR".
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

func main() {
	kind, name := os.Args[1], os.Args[2]
	lines, err := lookup(kind, name)
	if err != nil {
		fmt.Println("!", word(err))
		return
	}
	for _, line := range lines {
		fmt.Println(line)
	}
}

func lookup(kind, name string) (lines []string, err error) {
	resolver, ctx := net.DefaultResolver, context.Background()
	switch kind {
	case "host":
		return resolver.LookupHost(ctx, name)
	case "both":
		found, err := resolver.LookupIPAddr(ctx, name)
		for _, each := range found {
			lines = append(lines, each.String())
		}
		return lines, err
	case "SRV":
		_, found, err := resolver.LookupSRV(ctx, "", "", name)
		for _, each := range found {
			lines = append(lines, fmt.Sprintf("%d %d %d %s", each.Priority, each.Weight, each.Port, each.Target))
		}
		return lines, err
	default:
		found, err := resolver.LookupIP(ctx, map[string]string{"A": "ip4", "AAAA": "ip6"}[kind], name)
		for _, each := range found {
			lines = append(lines, each.String())
		}
		return lines, err
	}
}

// word is what programs can tell an error by.
func word(err error) string {
	var failure *net.DNSError
	if errors.As(err, &failure) && failure.IsNotFound {
		return "IsNotFound"
	}
	return err.Error()
}
