// lookup A|AAAA|both|SRV NAME: prints the result of the Go resolver, one record per line, or one line "! ERROR".
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
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
	case "both":
		return both(ctx, resolver, name)
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

// both calls LookupIPAddr and LookupHost, which must return the same addresses.
func both(ctx context.Context, resolver *net.Resolver, name string) (lines []string, err error) {
	found, err := resolver.LookupIPAddr(ctx, name)
	if err != nil {
		return nil, err
	}
	hosts, err := resolver.LookupHost(ctx, name)
	for _, each := range found {
		lines = append(lines, each.String())
	}
	sort.Strings(lines)
	sort.Strings(hosts)
	if err == nil && fmt.Sprint(lines) != fmt.Sprint(hosts) {
		err = fmt.Errorf("LookupIPAddr found %v, LookupHost %v", lines, hosts)
	}
	return lines, err
}

// word returns the error in the form that programs can check.
func word(err error) string {
	var failure *net.DNSError
	if errors.As(err, &failure) && failure.IsNotFound {
		return "IsNotFound"
	}
	return err.Error()
}
