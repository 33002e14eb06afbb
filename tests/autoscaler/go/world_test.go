package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
)

// Sync is the world at one sync of the controller. Metrics are in thousandths, as it counts them.
type Sync struct {
	StatusReplicas int32                       `json:"status_replicas"`
	Pods           []Pod                       `json:"pods"`
	PodMetrics     map[string]map[string]int64 `json:"pod_metrics"`
	Cpu            map[string]Sample           `json:"cpu"`
	External       map[string][]int64          `json:"external"`
}

// Pod is what the controller looks at. Times are seconds before the sync.
type Pod struct {
	Name             string `json:"name"`
	Phase            string `json:"phase"`
	Ready            bool   `json:"ready"`
	StartedAgo       int64  `json:"started_ago_s"`
	ReadinessAgo     int64  `json:"readiness_ago_s"`
	Terminating      bool   `json:"terminating"`
	CpuRequestMillis int64  `json:"cpu_request_milli"`
}

// Sample is the CPU that a pod used over a window before some time.
type Sample struct {
	Milli     int64 `json:"milli"`
	TakenAgo  int64 `json:"taken_ago_s"`
	WindowFor int64 `json:"window_s"`
}

// world plays a scenario to the controller: its pods, metrics and scale.
type world struct {
	syncs     []Sync
	now       Sync
	replicas  int32
	decisions []int32
	reads     int
	indexer   cache.Indexer
}

var labelsOfPods = map[string]string{"app": name}

func newWorld(scenario Scenario) *world {
	byNamespace := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	return &world{
		syncs:    scenario.Syncs,
		replicas: scenario.Replicas,
		indexer:  cache.NewIndexer(cache.MetaNamespaceKeyFunc, byNamespace),
	}
}

// decided notes what is asked for after a sync, and checks that there was exactly one.
func (w *world) decided() {
	w.decisions = append(w.decisions, w.replicas)
	if w.reads != len(w.decisions) {
		panic(fmt.Sprintf("%d syncs in %d periods", w.reads, len(w.decisions)))
	}
}

func (w *world) Scales(string) scale.ScaleInterface { return w }

// Get is the first thing that a sync does.
func (w *world) Get(context.Context, schema.GroupResource, string, metav1.GetOptions) (*autoscalingv1.Scale, error) {
	w.now = w.syncs[w.reads]
	w.reads++
	pods := make([]any, len(w.now.Pods))
	for at, pod := range w.now.Pods {
		pods[at] = pod.object()
	}
	if err := w.indexer.Replace(pods, ""); err != nil {
		return nil, err
	}
	selector := labels.SelectorFromSet(labelsOfPods).String()
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       autoscalingv1.ScaleSpec{Replicas: w.replicas},
		Status:     autoscalingv1.ScaleStatus{Replicas: w.now.StatusReplicas, Selector: selector},
	}, nil
}

func (w *world) Update(_ context.Context, _ schema.GroupResource, scale *autoscalingv1.Scale, _ metav1.UpdateOptions) (*autoscalingv1.Scale, error) {
	w.replicas = scale.Spec.Replicas
	return scale, nil
}

func (w *world) Informer() cache.SharedIndexInformer { return synced{} }

func (w *world) Lister() corelisters.PodLister { return corelisters.NewPodLister(w.indexer) }

func (w *world) GetResourceMetric(context.Context, v1.ResourceName, string, labels.Selector, string) (metrics.PodMetricsInfo, time.Time, error) {
	if len(w.now.Cpu) == 0 {
		return nil, time.Time{}, errors.New("no metrics returned from resource metrics API")
	}
	found := metrics.PodMetricsInfo{}
	for pod, sample := range w.now.Cpu {
		window := time.Duration(sample.WindowFor) * time.Second
		found[pod] = metrics.PodMetric{Timestamp: ago(sample.TakenAgo), Window: window, Value: sample.Milli}
	}
	return found, time.Now(), nil
}

func (w *world) GetRawMetric(metric string, _ string, _ labels.Selector, _ labels.Selector) (metrics.PodMetricsInfo, time.Time, error) {
	if len(w.now.PodMetrics[metric]) == 0 {
		return nil, time.Time{}, errors.New("no metrics returned from custom metrics API")
	}
	found := metrics.PodMetricsInfo{}
	for pod, milli := range w.now.PodMetrics[metric] {
		found[pod] = metrics.PodMetric{Timestamp: time.Now(), Window: time.Minute, Value: milli}
	}
	return found, time.Now(), nil
}

func (w *world) GetExternalMetric(metric string, _ string, _ labels.Selector) ([]int64, time.Time, error) {
	if len(w.now.External[metric]) == 0 {
		return nil, time.Time{}, errors.New("no metrics returned from external metrics API")
	}
	return w.now.External[metric], time.Now(), nil
}

func (w *world) GetObjectMetric(string, string, *autoscaling.CrossVersionObjectReference, labels.Selector) (int64, time.Time, error) {
	return 0, time.Time{}, errors.New("no scenario has object metrics")
}

func (w *world) Patch(context.Context, schema.GroupVersionResource, string, types.PatchType, []byte, metav1.PatchOptions) (*autoscalingv1.Scale, error) {
	return nil, errors.New("the controller updates")
}

func ago(seconds int64) time.Time {
	return time.Now().Add(-time.Duration(seconds) * time.Second)
}

func (p Pod) object() *v1.Pod {
	started := metav1.NewTime(ago(p.StartedAgo))
	ready := v1.ConditionFalse
	if p.Ready {
		ready = v1.ConditionTrue
	}
	request := *resource.NewMilliQuantity(p.CpuRequestMillis, resource.DecimalSI)
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.Name, Labels: labelsOfPods},
		Spec: v1.PodSpec{Containers: []v1.Container{{
			Name:      "plexus",
			Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: request}},
		}}},
		Status: v1.PodStatus{
			Phase:     v1.PodPhase(p.Phase),
			StartTime: &started,
			Conditions: []v1.PodCondition{{
				Type:               v1.PodReady,
				Status:             ready,
				LastTransitionTime: metav1.NewTime(ago(p.ReadinessAgo)),
			}},
		},
	}
	if p.Terminating {
		now := metav1.Now()
		pod.DeletionTimestamp = &now
	}
	return pod
}
