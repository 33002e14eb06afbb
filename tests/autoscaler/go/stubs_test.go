package replay

import (
	"context"
	"time"

	autoscaling "k8s.io/api/autoscaling/v2"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientautoscaling "k8s.io/client-go/kubernetes/typed/autoscaling/v2"
	clientcore "k8s.io/client-go/kubernetes/typed/core/v1"
	listers "k8s.io/client-go/listers/autoscaling/v2"
	"k8s.io/client-go/tools/cache"
)

// hpas is an API with one autoscaler in it, whose status nobody reads.
type hpas struct {
	clientautoscaling.HorizontalPodAutoscalerInterface
	indexer cache.Indexer
	handler cache.ResourceEventHandler
}

func newHPAs(hpa *autoscaling.HorizontalPodAutoscaler) *hpas {
	byNamespace := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, byNamespace)
	if err := indexer.Add(hpa); err != nil {
		panic(err)
	}
	return &hpas{indexer: indexer}
}

func (h *hpas) HorizontalPodAutoscalers(string) clientautoscaling.HorizontalPodAutoscalerInterface {
	return h
}

func (h *hpas) UpdateStatus(_ context.Context, hpa *autoscaling.HorizontalPodAutoscaler, _ metav1.UpdateOptions) (*autoscaling.HorizontalPodAutoscaler, error) {
	return hpa, nil
}

func (h *hpas) Lister() listers.HorizontalPodAutoscalerLister {
	return listers.NewHorizontalPodAutoscalerLister(h.indexer)
}

func (h *hpas) Informer() cache.SharedIndexInformer { return informer{hpas: h} }

// informer keeps the handler that the controller registers, to tell it of the autoscaler by hand.
type informer struct {
	synced
	hpas *hpas
}

func (i informer) AddEventHandlerWithResyncPeriod(handler cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	i.hpas.handler = handler
	return nil, nil
}

// noEvents takes the events that the controller emits and forgets them.
type noEvents struct{ clientcore.EventInterface }

func (noEvents) Events(string) clientcore.EventInterface { return noEvents{} }

func (noEvents) CreateWithEventNamespaceWithContext(_ context.Context, event *v1.Event) (*v1.Event, error) {
	return event, nil
}

func (noEvents) UpdateWithEventNamespaceWithContext(_ context.Context, event *v1.Event) (*v1.Event, error) {
	return event, nil
}

func (noEvents) PatchWithEventNamespaceWithContext(_ context.Context, event *v1.Event, _ []byte) (*v1.Event, error) {
	return event, nil
}

func (noEvents) CreateWithEventNamespace(event *v1.Event) (*v1.Event, error) { return event, nil }

func (noEvents) UpdateWithEventNamespace(event *v1.Event) (*v1.Event, error) { return event, nil }

func (noEvents) PatchWithEventNamespace(event *v1.Event, _ []byte) (*v1.Event, error) {
	return event, nil
}
