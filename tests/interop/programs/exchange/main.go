// exchange: registers a member, watches a set or picks servers for keys, with one of two implementations:
// packages.go or original.go. The build selects the file.
//
//	exchange register ZOOKEEPER BASE ENVIRONMENT SERVICE HOST PORT    until SIGTERM
//	exchange watch ZOOKEEPER BASE ENVIRONMENT SERVICE                 a JSON list of endpoints at first and after changes
//	exchange pick                                                     {"Endpoints": […], "Keys": [base64, …]} from stdin
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "exchange:", err)
		os.Exit(1)
	}
}

func run(command string, arguments []string) error {
	if command == "pick" {
		var given struct {
			Endpoints []string
			Keys      [][]byte
		}
		if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(pick(given.Endpoints, given.Keys))
	}
	servers, base, environment, service := strings.Split(arguments[0], ","), arguments[1], arguments[2], arguments[3]
	if command == "watch" {
		return watch(servers, base, environment, service, func(endpoints []string) {
			_ = json.NewEncoder(os.Stdout).Encode(append([]string{}, endpoints...))
		})
	}
	port, err := strconv.Atoi(arguments[5])
	if err != nil {
		return err
	}
	ending := make(chan os.Signal, 1)
	signal.Notify(ending, syscall.SIGTERM)
	end, err := register(servers, base, environment, service, arguments[4], port)
	if err != nil {
		return err
	}
	fmt.Println("registered")
	<-ending
	end()
	return nil
}
