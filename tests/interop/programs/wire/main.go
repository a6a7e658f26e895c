// wire: reads requests as lines of JSON from stdin, and writes a line of JSON for each.
//
// Only the standard library of Go is used: encoding/json for members, net.JoinHostPort for endpoints, sort.Strings
// for lists. The ring of hashes is written here from its description (zkdns/balance/ring.py), since no package of the
// standard library has one. Bytes travel as base64, as encoding/json writes a []byte.
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"net"
	"os"
	"sort"
	"strconv"
)

type endpoint struct {
	Host string `json:"host"`
	Port int    `json:"port"`
}

type member struct {
	Service    endpoint            `json:"serviceEndpoint"`
	Additional map[string]endpoint `json:"additionalEndpoints"`
	Status     string              `json:"status"`
	Shard      *int32              `json:"shard,omitempty"`
	Metadata   map[string]string   `json:"metadata,omitempty"`
}

type request struct {
	Op        string
	Member    member
	Data      []byte
	Keys      [][]byte
	Endpoints []string
}

type response struct {
	Data     []byte   `json:"data"`
	Member   member   `json:"member"`
	Endpoint string   `json:"endpoint"`
	Texts    []string `json:"texts"`
	Error    string   `json:"error"`
}

func main() {
	requests, responses := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for requests.More() {
		var given request
		if err := requests.Decode(&given); err != nil {
			fmt.Fprintln(os.Stderr, "wire:", err)
			os.Exit(1)
		}
		if err := responses.Encode(answer(given)); err != nil {
			fmt.Fprintln(os.Stderr, "wire:", err)
			os.Exit(1)
		}
	}
}

func answer(given request) (made response) {
	var err error
	switch given.Op {
	case "encode":
		made.Data, err = json.Marshal(given.Member)
	case "decode":
		if err = json.Unmarshal(given.Data, &made.Member); err == nil {
			service := made.Member.Service
			made.Endpoint = net.JoinHostPort(service.Host, strconv.Itoa(service.Port))
		}
	case "sort":
		made.Texts = append([]string{}, given.Endpoints...)
		sort.Strings(made.Texts)
	case "pick":
		circle := newRing(given.Endpoints)
		for _, key := range given.Keys {
			made.Texts = append(made.Texts, circle.pick(key))
		}
	default:
		err = fmt.Errorf("unknown op %q", given.Op)
	}
	if err != nil {
		made.Error = err.Error()
	}
	return made
}

// ring: 150 points for each endpoint. A later endpoint in sorted order takes over an equal point.
type ring struct {
	points []uint32
	owners map[uint32]string
}

func newRing(endpoints []string) ring {
	made := ring{owners: map[uint32]string{}}
	ordered := append([]string{}, endpoints...)
	sort.Strings(ordered)
	for _, each := range ordered {
		for number := 0; number < 150; number++ {
			made.owners[murmur3([]byte(strconv.Itoa(number)+each))] = each
		}
	}
	for point := range made.owners {
		made.points = append(made.points, point)
	}
	sort.Slice(made.points, func(i, j int) bool { return made.points[i] < made.points[j] })
	return made
}

func (r ring) pick(key []byte) string {
	hash := murmur3(key)
	at := sort.Search(len(r.points), func(i int) bool { return r.points[i] >= hash })
	return r.owners[r.points[at%len(r.points)]]
}

// murmur3 is MurmurHash3_x86_32 with the seed 0.
func murmur3(data []byte) uint32 {
	mix := func(k uint32) uint32 { return bits.RotateLeft32(k*0xcc9e2d51, 15) * 0x1b873593 }
	var state uint32
	rest := data
	for ; len(rest) >= 4; rest = rest[4:] {
		state = bits.RotateLeft32(state^mix(binary.LittleEndian.Uint32(rest)), 13)*5 + 0xe6546b64
	}
	var last uint32
	for i := len(rest) - 1; i >= 0; i-- {
		last = last<<8 | uint32(rest[i])
	}
	state ^= mix(last) ^ uint32(len(data))
	state = (state ^ state>>16) * 0x85ebca6b
	state = (state ^ state>>13) * 0xc2b2ae35
	return state ^ state>>16
}
