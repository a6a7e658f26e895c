package main

// With go.serversets itself.

import (
	"time"

	"github.com/strava/go.serversets"
	"github.com/strava/go.serversets/mcset"
)

// quiet drops the log of an MCSet.
type quiet struct{}

func (quiet) Printf(string, ...interface{}) {}

func pick(endpoints []string, keys [][]byte) []string {
	mcset.DefaultLogger = quiet{}
	servers := mcset.New(nil)
	servers.SetEndpoints(endpoints)
	owners := []string{}
	for _, key := range keys {
		owner := ""
		if address, err := servers.PickServer(string(key)); err == nil {
			owner = address.String()
		}
		owners = append(owners, owner)
	}
	return owners
}

func newSet(servers []string, base, environment, service string) *serversets.ServerSet {
	serversets.BaseDirectory = base
	made := serversets.New(serversets.Environment(environment), service, servers)
	made.ZKTimeout = 2 * time.Second
	return made
}

func register(servers []string, base, environment, service, host string, port int) (func(), error) {
	made, err := newSet(servers, base, environment, service).RegisterEndpoint(host, port, nil)
	if err != nil {
		return nil, err
	}
	return made.Close, nil
}

func watch(servers []string, base, environment, service string, changed func([]string)) error {
	followed, err := newSet(servers, base, environment, service).Watch()
	if err != nil {
		return err
	}
	changed(followed.Endpoints())
	for range followed.Event() {
		changed(followed.Endpoints())
	}
	return nil
}
