// The gateway in Go, as a careful engineer writes it by hand: net/http, one shared Transport, a goroutine for each call, typed structs where the
// fields are needed and json.RawMessage where they are only passed on.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	services = strings.Fields(os.Getenv("BENCH_SERVICES"))
	client   = &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			MaxIdleConns:        4096,
			MaxIdleConnsPerHost: 4096,
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true,
		},
	}
)

type object = map[string]json.RawMessage

func fetch(ctx context.Context, service int, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, services[service]+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("service %d answered %d", service, answer.StatusCode)
	}
	if !json.Valid(body) {
		return nil, fmt.Errorf("service %d answered what is not JSON", service)
	}
	return body, nil
}

// ordersOf gives the orders as they are, their items as objects, and the product of each item.
func ordersOf(ctx context.Context) (object, []object, []int, error) {
	body, err := fetch(ctx, 0, "/shop/orders")
	if err != nil {
		return nil, nil, nil, err
	}
	var orders object
	if err := json.Unmarshal(body, &orders); err != nil {
		return nil, nil, nil, err
	}
	var items []object
	if err := json.Unmarshal(orders["items"], &items); err != nil {
		return nil, nil, nil, err
	}
	ids := make([]int, len(items))
	for place, item := range items {
		if err := json.Unmarshal(item["product_id"], &ids[place]); err != nil {
			return nil, nil, nil, err
		}
	}
	return orders, items, ids, nil
}

func group(names ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		bodies := make([]json.RawMessage, len(names))
		errors := make([]error, len(names))
		var waiting sync.WaitGroup
		for place, name := range names {
			waiting.Add(1)
			go func() {
				defer waiting.Done()
				bodies[place], errors[place] = fetch(r.Context(), place, "/"+name)
			}()
		}
		waiting.Wait()
		answer := object{}
		for place, name := range names {
			if errors[place] != nil {
				fail(w, errors[place])
				return
			}
			answer[name] = bodies[place]
		}
		write(w, answer)
	}
}

func each(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	orders, items, ids, err := ordersOf(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	errors := make(chan error, len(items))
	places := make(chan struct{}, 8) // at most eight at once, as in the gateway's document
	for place, item := range items {
		go func() {
			places <- struct{}{}
			defer func() { <-places }()
			product, err := fetch(ctx, 1, "/shop/products/"+strconv.Itoa(ids[place]))
			item["product"] = product
			errors <- err
		}()
	}
	for range items {
		if err := <-errors; err != nil {
			fail(w, err)
			return
		}
	}
	joined(w, orders, items)
}

func batch(w http.ResponseWriter, r *http.Request) {
	orders, items, ids, err := ordersOf(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	wanted := make([]string, 0, len(ids))
	seen := make(map[int]bool, len(ids))
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			wanted = append(wanted, strconv.Itoa(id))
		}
	}
	body, err := fetch(r.Context(), 1, "/shop/products?ids="+strings.Join(wanted, ","))
	if err != nil {
		fail(w, err)
		return
	}
	var products []json.RawMessage
	if err := json.Unmarshal(body, &products); err != nil {
		fail(w, err)
		return
	}
	byID := make(map[int]json.RawMessage, len(products))
	for _, product := range products {
		var key struct {
			ID int `json:"id"`
		}
		if err := json.Unmarshal(product, &key); err != nil {
			fail(w, err)
			return
		}
		byID[key.ID] = product
	}
	for place, item := range items {
		item["product"] = byID[ids[place]]
	}
	joined(w, orders, items)
}

func joined(w http.ResponseWriter, orders object, items []object) {
	encoded, err := json.Marshal(items)
	if err != nil {
		fail(w, err)
		return
	}
	orders["items"] = encoded
	write(w, map[string]object{"orders": orders})
}

func write(w http.ResponseWriter, answer any) {
	body, err := json.Marshal(answer)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("content-type", "application/json")
	w.Write(body)
}

func fail(w http.ResponseWriter, err error) { http.Error(w, err.Error(), http.StatusBadGateway) }

func main() {
	runtime.GOMAXPROCS(1) // every server has one core
	http.HandleFunc("GET /a", group("user", "orders", "weather"))
	http.HandleFunc("GET /i", each)
	http.HandleFunc("GET /j", batch)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ended
		os.Exit(0)
	}()
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Getenv("BENCH_PORT"), nil))
	os.Exit(1)
}
