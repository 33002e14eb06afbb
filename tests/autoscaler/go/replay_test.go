// Package replay runs Kubernetes' own autoscaler over recorded scenarios, in simulated time.
//
// The controller is the real one, from k8s.io/kubernetes. Around it stand the world of a scenario
// (pods, metrics, the scale) and testing/synctest's clock, on which 15 seconds pass at once.
package replay

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"testing/synctest"
	"time"

	autoscaling "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/cache"
	defaults "k8s.io/kubernetes/pkg/apis/autoscaling/v2"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
)

const (
	namespace = "plexus"
	name      = "gateway"

	// The defaults of kube-controller-manager.
	syncPeriod              = 15 * time.Second
	downscaleStabilization  = 5 * time.Minute
	tolerance               = 0.1
	cpuInitializationPeriod = 5 * time.Minute
	initialReadinessDelay   = 30 * time.Second
)

// Scenario is what one autoscaler sees, sync by sync.
type Scenario struct {
	Spec     autoscaling.HorizontalPodAutoscalerSpec `json:"spec"`
	Replicas int32                                   `json:"replicas"`
	Syncs    []Sync                                  `json:"syncs"`
}

// TestReplay reads scenarios from $SCENARIOS and writes to $DECISIONS, for each, the replicas that
// the controller asked for after each sync.
func TestReplay(t *testing.T) {
	if os.Getenv("SCENARIOS") == "" {
		t.Skip("no $SCENARIOS")
	}
	var scenarios []Scenario
	recorded, err := os.ReadFile(os.Getenv("SCENARIOS"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(recorded, &scenarios); err != nil {
		t.Fatal(err)
	}
	// Its default handlers pause, so that syncs after an error would drift.
	runtime.ErrorHandlers = nil
	decisions := make([][]int32, len(scenarios))
	for at, scenario := range scenarios {
		synctest.Test(t, func(t *testing.T) { decisions[at] = replay(scenario) })
	}
	said, err := json.Marshal(decisions)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv("DECISIONS"), said, 0o644); err != nil {
		t.Fatal(err)
	}
}

func replay(scenario Scenario) []int32 {
	hpa := &autoscaling.HorizontalPodAutoscaler{Spec: scenario.Spec}
	hpa.Namespace, hpa.Name = namespace, name
	defaults.SetDefaults_HorizontalPodAutoscaler(hpa)

	world := newWorld(scenario)
	hpas := newHPAs(hpa)
	ctx, cancel := context.WithCancel(context.Background())
	controller := podautoscaler.NewHorizontalController(
		ctx,
		noEvents{},
		world,
		hpas,
		mapper(),
		world,
		hpas,
		world,
		syncPeriod,
		downscaleStabilization,
		tolerance,
		cpuInitializationPeriod,
		initialReadinessDelay,
	)
	go controller.Run(ctx, 1)
	hpas.handler.OnAdd(hpa, true)
	for range scenario.Syncs {
		time.Sleep(syncPeriod)
		synctest.Wait()
		world.decided()
	}
	cancel()
	// Loops of client-go that look for their end once in a while.
	time.Sleep(time.Minute)
	return world.decisions
}

func mapper() meta.RESTMapper {
	apps := schema.GroupVersion{Group: "apps", Version: "v1"}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{apps})
	mapper.Add(apps.WithKind("Deployment"), meta.RESTScopeNamespace)
	return mapper
}

// synced is an informer that was filled by hand and never watches anything.
type synced struct{ cache.SharedIndexInformer }

func (synced) HasSynced() bool { return true }
