package main

// With the packages that go.serversets is built on: its ZooKeeper client, and its ring of hashes with an equal hash
// function of another author. The use of them is written here.

import (
	"encoding/json"
	"net"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/golang/groupcache/consistenthash"
	"github.com/samuel/go-zookeeper/zk"
	"github.com/spaolacci/murmur3"
)

const sessionTimeout = 2 * time.Second

type endpoint struct {
	Host string `json:"host"`
	Port int    `json:"port"`
}

type member struct {
	Service    endpoint            `json:"serviceEndpoint"`
	Additional map[string]endpoint `json:"additionalEndpoints"`
	Status     string              `json:"status"`
}

func pick(endpoints []string, keys [][]byte) []string {
	ordered := append([]string{}, endpoints...)
	sort.Strings(ordered)
	circle := consistenthash.New(150, murmur3.Sum32)
	circle.Add(ordered...)
	owners := []string{}
	for _, key := range keys {
		owners = append(owners, circle.Get(string(key)))
	}
	return owners
}

func register(servers []string, base, environment, service, host string, port int) (func(), error) {
	connection, _, err := zk.Connect(servers, sessionTimeout)
	if err != nil {
		return nil, err
	}
	directory, err := createParents(connection, base, environment, service)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(member{endpoint{host, port}, map[string]endpoint{}, "ALIVE"})
	if err != nil {
		return nil, err
	}
	flags := int32(zk.FlagEphemeral | zk.FlagSequence)
	_, err = connection.Create(directory+"/member_", data, flags, zk.WorldACL(zk.PermAll))
	return connection.Close, err
}

func watch(servers []string, base, environment, service string, changed func([]string)) error {
	connection, _, err := zk.Connect(servers, sessionTimeout)
	if err != nil {
		return err
	}
	directory, err := createParents(connection, base, environment, service)
	if err != nil {
		return err
	}
	for {
		names, _, event, err := connection.ChildrenW(directory)
		if err != nil {
			return err
		}
		endpoints, err := read(connection, directory, names)
		if err != nil {
			return err
		}
		changed(endpoints)
		<-event
	}
}

func read(connection *zk.Conn, directory string, names []string) ([]string, error) {
	endpoints := []string{}
	for _, name := range names {
		if !strings.HasPrefix(name, "member_") {
			continue
		}
		data, _, err := connection.Get(directory + "/" + name)
		if err == zk.ErrNoNode {
			continue
		} else if err != nil {
			return nil, err
		}
		var found member
		if err := json.Unmarshal(data, &found); err != nil {
			return nil, err
		}
		if found.Status == "ALIVE" {
			endpoints = append(endpoints, net.JoinHostPort(found.Service.Host, strconv.Itoa(found.Service.Port)))
		}
	}
	sort.Strings(endpoints)
	return endpoints, nil
}

func createParents(connection *zk.Conn, base, environment, service string) (string, error) {
	path := ""
	for _, element := range strings.Split(base+"/"+environment+"/"+service, "/")[1:] {
		path += "/" + element
		_, err := connection.Create(path, nil, 0, zk.WorldACL(zk.PermAll))
		if err != nil && err != zk.ErrNodeExists {
			return "", err
		}
	}
	return path, nil
}
