package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// readyTimeout is for the whole start; ten seconds is usual on two free cores.
const readyTimeout = 120 * time.Second

const pollInterval = 50 * time.Millisecond

// waitUntil asks until `question` has no error left.
//
// It fails with the cause when the context ends; when its time is over, with the last error.
func waitUntil(ctx context.Context, question func(context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := question(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not ready within %s: %w", readyTimeout, err)
			}
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// isServing asks the API server whether it is ready: storage, its own objects and RBAC's default roles are there.
func isServing(client kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}
}

// isUsable asks for what a pod in the namespace `default` and a node that joins need.
func isUsable(client, bootstrap kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		core := client.CoreV1()
		if _, err := core.ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return err
		}
		if _, err := core.ConfigMaps("default").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}); err != nil {
			return err
		}
		return canJoin(ctx, bootstrap)
	}
}

// canJoin asks with the bootstrap token: the API server learns of the token and of its rights with a delay.
func canJoin(ctx context.Context, bootstrap kubernetes.Interface) error {
	review, err := bootstrap.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
		&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "create", Group: "certificates.k8s.io", Resource: "certificatesigningrequests",
			},
		}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if !review.Status.Allowed {
		return errors.New("the bootstrap token may not ask for a certificate yet")
	}
	return nil
}
