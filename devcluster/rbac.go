package main

import (
	"context"
	"os"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

const (
	bootstrappers = "system:bootstrappers"
	// kubeadmTokenGroup is the group of a token that `kubeadm token create` makes.
	kubeadmTokenGroup = "system:bootstrappers:kubeadm:default-node-token"
	nodes             = "system:nodes"
	clusterInfo       = "cluster-info"
	clusterInfoRole   = "kubeadm:bootstrap-signer-clusterinfo"
	getNodesRole      = "kubeadm:get-nodes"
)

// makeObjects makes what `kubeadm init` makes for nodes that join, under kubeadm's names: the rights of the bootstrap
// token, the approval of the nodes' certificates, the API server's rights on kubelets, the token, and the cluster-info
// that lets a node with a token trust the cluster. What is there already, from an earlier run, stays.
func makeObjects(ctx context.Context, client kubernetes.Interface, p plan, token string) error {
	for _, make := range []func(context.Context, kubernetes.Interface) error{makeRoles, makeBindings} {
		if err := make(ctx, client); err != nil {
			return err
		}
	}
	if err := makeToken(ctx, client, token); err != nil {
		return err
	}
	return makeClusterInfo(ctx, client, p)
}

func makeRoles(ctx context.Context, client kubernetes.Interface) error {
	_, err := client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: getNodesRole},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}}},
	}, metav1.CreateOptions{})
	if unlessExists(err) != nil {
		return err
	}
	_, err = client.RbacV1().Roles(metav1.NamespacePublic).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: clusterInfoRole},
		Rules: []rbacv1.PolicyRule{{
			Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"},
			ResourceNames: []string{clusterInfo},
		}},
	}, metav1.CreateOptions{})
	return unlessExists(err)
}

func makeBindings(ctx context.Context, client kubernetes.Interface) error {
	const approve = "system:certificates.k8s.io:certificatesigningrequests:"
	for _, each := range []struct{ name, role, kind, subject string }{
		{"kubeadm:kubelet-bootstrap", "system:node-bootstrapper", rbacv1.GroupKind, bootstrappers},
		{getNodesRole, getNodesRole, rbacv1.GroupKind, bootstrappers},
		{"kubeadm:node-autoapprove-bootstrap", approve + "nodeclient", rbacv1.GroupKind, bootstrappers},
		{"kubeadm:node-autoapprove-certificate-rotation", approve + "selfnodeclient", rbacv1.GroupKind, nodes},
		{"kubeadm:apiserver-kubelet-client", "system:kubelet-api-admin", rbacv1.UserKind, kubeletClientName},
	} {
		_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: each.name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: each.role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: each.kind, Name: each.subject}},
		}, metav1.CreateOptions{})
		if unlessExists(err) != nil {
			return err
		}
	}
	_, err := client.RbacV1().RoleBindings(metav1.NamespacePublic).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: clusterInfoRole},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: clusterInfoRole},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "system:anonymous"}},
	}, metav1.CreateOptions{})
	return unlessExists(err)
}

func makeToken(ctx context.Context, client kubernetes.Interface, token string) error {
	id, secret := splitToken(token)
	_, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id":                       id,
			"token-secret":                   secret,
			"usage-bootstrap-authentication": "true",
			"usage-bootstrap-signing":        "true",
			"auth-extra-groups":              kubeadmTokenGroup,
		},
	}, metav1.CreateOptions{})
	return unlessExists(err)
}

// makeClusterInfo makes what anybody may read; the controller bootstrapsigner signs it with each token.
func makeClusterInfo(ctx context.Context, client kubernetes.Interface, p plan) error {
	ca, err := os.ReadFile(p.certificate("ca"))
	if err != nil {
		return err
	}
	config := api.NewConfig()
	config.Clusters[""] = &api.Cluster{Server: p.server(), CertificateAuthorityData: ca}
	text, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	_, err = client.CoreV1().ConfigMaps(metav1.NamespacePublic).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: clusterInfo},
		Data:       map[string]string{"kubeconfig": string(text)},
	}, metav1.CreateOptions{})
	return unlessExists(err)
}

func unlessExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
